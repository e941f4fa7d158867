"""Fingerprints of tokens: enough to know one again, nothing to recover it from."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from mdl.settings import StrPath


def fingerprint(token: str | None, home: StrPath) -> str:
    """A keyed hash (HMAC-SHA-256, 64 bits) of a token; `anonymous` for none.

    The key is this installation's own, in `home/fingerprint.key` (mode 0600): a stolen database
    does not let anyone test guesses.
    """
    if token is None:
        return "anonymous"
    return hmac.new(_key(Path(home)), token.encode(), hashlib.sha256).hexdigest()[:16]


def _key(home: Path) -> bytes:
    path = home / "fingerprint.key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = secrets.token_bytes(32)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_bytes(made)
    try:
        # link() fails when another process was first: then its key counts.
        os.link(temporary, path)
    except FileExistsError:
        made = path.read_bytes()
    finally:
        temporary.unlink()
    return made
