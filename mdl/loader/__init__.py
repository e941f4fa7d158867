"""From a name to a loaded model, with a report of what was loaded.

`load` does it all; `FastLanguageModel` and `FastVisionModel` take the same arguments as Unsloth's.
Importing this package imports neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.api import load, make_request, plan
    from mdl.loader.devices import is_bf16_supported, is_bfloat16_supported
    from mdl.loader.disk import make_parent, nearest_existing
    from mdl.loader.generate import Conversation, reply_to
    from mdl.loader.loaded import Loaded
    from mdl.loader.pipeline import load_request
    from mdl.loader.progress import progress_for
    from mdl.loader.pulled import Pulled, pull
    from mdl.loader.report import Report
    from mdl.loader.request import LoadRequest, Quantization
    from mdl.loader.unsloth import ADVICE, FastLanguageModel, FastModel, FastVisionModel
    from mdl.loader.verify import Verification, verify_target

__getattr__ = door(
    __name__,
    {
        "api": "load make_request plan",
        "devices": "is_bf16_supported is_bfloat16_supported",
        "disk": "make_parent nearest_existing",
        "generate": "Conversation reply_to",
        "loaded": "Loaded",
        "pipeline": "load_request",
        "progress": "progress_for",
        "pulled": "Pulled pull",
        "report": "Report",
        "request": "LoadRequest Quantization",
        "unsloth": "ADVICE FastLanguageModel FastModel FastVisionModel",
        "verify": "Verification verify_target",
    },
)
