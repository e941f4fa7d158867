"""Who is asking: tokens with roles, compared in constant time, read again when they change."""

import base64
import binascii
import hashlib
import hmac
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from mdl.errors import ConfigError

log = logging.getLogger("mdl.service")

# What each role may do includes what those before it may. `local` is a caller of a loopback
# service that knows no tokens: it may look at plans too, but change nothing.
ROLES = ("read", "local", "admin")
_GIVEN = ("read", "admin")
_SHORTEST = 16
_LOOK_AGAIN = 1.0
_TRY_AGAIN = 30.0


def may(role: str | None, needed: str) -> bool:
    return role is not None and ROLES.index(role) >= ROLES.index(needed)


def parse_tokens(text: str) -> dict[bytes, str]:
    """SHA-256 of each token → its role, from lines (or `;`-separated parts) of `ROLE TOKEN`.

    Raises:
        ConfigError: a line that is none, an unknown role, a token too short to be a secret.
    """
    found: dict[bytes, str] = {}
    for number, line in enumerate(text.replace(";", "\n").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # The token itself is never repeated in a message.
        if len(words) != 2 or words[0] not in _GIVEN:
            raise ConfigError(
                f"Line {number} of the tokens is not `read TOKEN` or `admin TOKEN`.",
                next="Write one role and one token a line; # starts a comment.",
            )
        if len(words[1]) < _SHORTEST or not words[1].isascii():
            raise ConfigError(
                f"The token in line {number} is too short or not ASCII.",
                next="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        found[hashlib.sha256(words[1].encode()).digest()] = words[0]
    return found


@dataclass
class Tokens:
    """The tokens in force. A file that becomes unusable leaves the last good ones in force."""

    file: Path | None = None
    text: str = ""
    _given: dict[bytes, str] = field(default_factory=dict)
    _read: dict[bytes, str] = field(default_factory=dict)
    _stamp: tuple[int, ...] | None = None
    _looked: float = 0.0

    def __post_init__(self) -> None:
        self._given = parse_tokens(self.text)
        if self.file is not None:
            try:
                self._load(self.file)
            except OSError as error:
                raise ConfigError(
                    f"The tokens file {self.file} cannot be read.",
                    why=error.strerror or str(error),
                    next="Name a file that the service's user may read.",
                ) from error

    def __len__(self) -> int:
        return len(self._given) + len(self._read)

    def role(self, authorization: bytes | None) -> str | None:
        """The role behind an Authorization header, `None` for nobody.

        `Bearer TOKEN`, and `Basic` with the token as password, which is what a browser can ask
        a person for.
        """
        self._refresh()
        if not len(self):
            return "local"
        token = _presented(authorization)
        if token is None:
            return None
        digest = hashlib.sha256(token).digest()
        role = None
        # Every one is compared, so that the time tells nothing about which one came close.
        for known, held in (*self._given.items(), *self._read.items()):
            if hmac.compare_digest(known, digest):
                role = held
        return role

    def _refresh(self) -> None:
        now = time.monotonic()
        if self.file is None or now - self._looked < _LOOK_AGAIN:
            return
        self._looked = now
        if _stamp_of(self.file) == self._stamp:
            return
        try:
            self._load(self.file)
            log.info("The tokens file was read again: %d tokens.", len(self._read))
        except (OSError, ConfigError) as error:
            log.error("The tokens file cannot be used; the tokens before it stay: %s", error)
            if isinstance(error, OSError) and self._stamp:
                # It is there: the same file may be readable in a while.
                self._stamp, self._looked = None, now + _TRY_AGAIN

    def _load(self, file: Path) -> None:
        # Also of a file that cannot be used: that is said once, and looked at when it changes.
        self._stamp = _stamp_of(file)
        try:
            found = parse_tokens(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"The tokens file {file} is no text.",
                why=f"byte {error.start} is not UTF-8",
                next="Write lines of `read TOKEN` or `admin TOKEN`.",
            ) from error
        if not found and not self._given:
            raise ConfigError(
                f"The tokens file {file} holds no token.",
                next="Write lines of `read TOKEN` or `admin TOKEN`.",
            )
        if os.name == "posix" and file.stat().st_mode & 0o077:
            log.warning("The tokens file can be read by others; make its mode 0600.")
        self._read = found


def _stamp_of(file: Path) -> tuple[int, ...]:
    """What differs when the file was changed; nothing where it cannot be looked at."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _presented(authorization: bytes | None) -> bytes | None:
    scheme, _, value = (authorization or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip() or None
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2] or None
        except binascii.Error:
            return None
    return None
