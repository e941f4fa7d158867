"""Fingerprints of tokens: enough to know one again, nothing to recover it from."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from mdl.settings import StrPath

# This process's, where the home keeps none: what is found out is asked anew by the next.
_OWN_KEY = secrets.token_bytes(32)


def fingerprint(token: str | None, home: StrPath) -> str:
    """A keyed hash (HMAC-SHA-256, 64 bits) of a token; `anonymous` for none.

    The key is this installation's own, in `home/fingerprint.key` (mode 0600): a stolen database
    does not let anyone test guesses.
    """
    if token is None:
        return "anonymous"
    try:
        key = _key(Path(home))
    except OSError:  # a home that cannot be read or written keeps nobody from an answer
        key = _OWN_KEY
    text = token.encode(errors="backslashreplace")  # an environment may hold any bytes
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:16]


def _key(home: Path) -> bytes:
    path = home / "fingerprint.key"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = secrets.token_bytes(32)
    import tempfile  # seldom needed, and slow to import

    # A file of its own for each that makes a key: threads of a service may be first together.
    with tempfile.NamedTemporaryFile(prefix=f"{path.name}.", dir=home) as file:
        file.write(made)
        file.flush()
        try:
            # Fails when another was first: then its key counts.
            os.link(file.name, path)
        except FileExistsError:
            made = path.read_bytes()
    return made
