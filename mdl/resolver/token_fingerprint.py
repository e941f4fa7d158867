"""Fingerprints of tokens: enough to recognise a token, not to recover it."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from mdl.settings import StrPath

# Used where the home cannot store a key: the next process checks access again.
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
    except OSError:  # a home that cannot be read or written must not prevent a resolution
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

    # A file for each thread that makes a key: several may start at once.
    with tempfile.NamedTemporaryFile(prefix=f"{path.name}.", dir=home) as file:
        file.write(made)
        file.flush()
        try:
            # Fails if another was first; then its key is used.
            os.link(file.name, path)
        except FileExistsError:
            made = path.read_bytes()
    return made
