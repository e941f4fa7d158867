"""What is common to all that ask the Hub through huggingface_hub's client."""

import sys
from typing import Any


def http_library() -> Any:
    """The HTTP library huggingface_hub speaks with: httpx in 1.x, httpx2 from 2.0 on.

    Its `HTTPError` is what a connection that fails or breaks off raises; it is no `OSError`.
    """
    from huggingface_hub.utils import get_session

    return sys.modules[type(get_session()).__module__.partition(".")[0]]
