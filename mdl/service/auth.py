"""Who is calling: tokens and their roles, read again when their file changes."""

import base64
import hashlib
import hmac
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from mdl.errors import ConfigError

log = logging.getLogger("mdl.service")

# Each role may do what those before it may. `local` is a caller of a loopback service without
# tokens: it may also make plans, but change nothing.
ROLES = ("read", "local", "admin")
_ASSIGNABLE = ("read", "admin")
_SHORTEST = 16
_CHECK_EVERY = 1.0  # seconds
_RETRY_AFTER = 30.0


def may(role: str | None, needed: str) -> bool:
    return role is not None and ROLES.index(role) >= ROLES.index(needed)


def parse_tokens(text: str) -> dict[bytes, str]:
    """SHA-256 of each token → its role, from lines (or `;`-separated parts) of `ROLE TOKEN`.

    Raises:
        ConfigError: a malformed line, an unknown role, a token too short to be a secret.
    """
    found: dict[bytes, str] = {}
    for number, line in enumerate(text.replace(";", "\n").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # No message contains the token itself.
        if len(words) != 2 or words[0] not in _ASSIGNABLE:
            raise ConfigError(
                f"Line {number} of the tokens is not `read TOKEN` or `admin TOKEN`.",
                next="Write one role and one token per line; # starts a comment.",
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
    """The tokens in force. When the file becomes unusable, the last good ones stay in force."""

    file: Path | None = None
    text: str = ""
    _from_text: dict[bytes, str] = field(default_factory=dict)
    _from_file: dict[bytes, str] = field(default_factory=dict)
    _stamp: tuple[int, ...] | None = None
    _checked: float = 0.0

    def __post_init__(self) -> None:
        self._from_text = parse_tokens(self.text)
        if self.file is not None:
            try:
                self._load(self.file)
            except OSError as error:
                raise ConfigError(
                    f"The tokens file {self.file} cannot be read.",
                    why=error.strerror or str(error),
                    next="Name a file that the service's user can read.",
                ) from error

    def __len__(self) -> int:
        return len(self._from_text) + len(self._from_file)

    def role(self, authorization: str | None) -> str | None:
        """The role of an Authorization header, or `None`.

        `Bearer TOKEN`, or `Basic` with the token as the password, which a browser can ask for.
        """
        self._refresh()
        if not len(self):
            return "local"
        token = _presented(authorization)
        if token is None:
            return None
        digest = hashlib.sha256(token).digest()
        role = None
        # All are compared, so that the time taken says nothing about them.
        for known, its_role in (*self._from_text.items(), *self._from_file.items()):
            if hmac.compare_digest(known, digest):
                role = its_role
        return role

    def page_key(self, authorization: str | None) -> str:
        """What the page's own forms carry for this caller, and no other site's page can know.

        It is made from the token itself, so that every replica takes it.
        """
        token = _presented(authorization) or b""
        return hmac.new(token, b"a form of the page", hashlib.sha256).hexdigest()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self.file is None or now - self._checked < _CHECK_EVERY:
            return
        self._checked = now
        if _stamp_of(self.file) == self._stamp:
            return
        try:
            self._load(self.file)
            log.info("Read the tokens file again: %d tokens.", len(self._from_file))
        except (OSError, ConfigError) as error:
            log.error("The tokens file cannot be used; the previous tokens stay valid: %s", error)
            if isinstance(error, OSError) and self._stamp:
                # The file exists, and may become readable without changing.
                self._stamp, self._checked = None, now + _RETRY_AFTER

    def _load(self, file: Path) -> None:
        # Before reading, so that an unusable file is reported once and read again when it changes.
        self._stamp = _stamp_of(file)
        try:
            found = parse_tokens(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"The tokens file {file} is not text.",
                why=f"byte {error.start} is not UTF-8",
                next="Write lines of `read TOKEN` or `admin TOKEN`.",
            ) from error
        if not found and not self._from_text:
            raise ConfigError(
                f"The tokens file {file} contains no token.",
                next="Write lines of `read TOKEN` or `admin TOKEN`.",
            )
        if os.name == "posix" and file.stat().st_mode & 0o077:
            log.warning("Other users can read the tokens file; set its mode to 0600.")
        self._from_file = found


def _stamp_of(file: Path) -> tuple[int, ...]:
    """Changes when the file does; empty where there is no such file."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _presented(authorization: str | None) -> bytes | None:
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2] or None
        except ValueError:
            return None
    return None
