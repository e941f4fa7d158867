"""The errors of mdl, in one tree.

MdlError                      1  something failed
├── UsageError                2  the request itself is wrong
│   ├── NameRefusedError         not the name of a repository or folder
│   └── ConfigError              a setting or configuration file that cannot be used
├── NotFoundError             3  no such repository, revision, file or row
├── NoAccessError             4  the Hub, or a policy, says no
├── OfflineError              5  this needs the network, and there is none
│   └── HubFaultError            the Hub responds, but fails on this repository
├── VerificationError         6  something is not what it should be
├── BusyError                 7  another process is working on the same thing
├── StoreError                1  the database cannot be opened, read or upgraded
├── DiskError                 1  no space, read-only, a file system that refuses
└── LoadError                 1  a checkpoint that cannot become the model asked for

The number is the exit code of a command that fails with it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

_NEW_LINE = "\n" + 8 * " "


class MdlError(Exception):
    """A failure that the user can act on.

    Args:
        message: what happened, one sentence.
        why: the reason, if known.
        next: what to do now.
        details: JSON fields beside `error` in `--json` and the HTTP API.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "failed"

    def __init__(
        self,
        message: str,
        *,
        why: str = "",
        next: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.next = next
        self.details = dict(details or {})

    def __str__(self) -> str:
        lines = [self.message]
        for label, text in (("why: ", self.why), ("next:", self.next)):
            if text:
                lines.append(f"  {label} " + text.replace("\n", _NEW_LINE))
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled without keyword-only arguments by default.
        return (_rebuild, (type(self), self.message, self.why, self.next, self.details))

    def to_json(self) -> dict[str, Any]:
        """The `error` object of `--json` and of the HTTP API."""
        return {"code": self.code, "message": self.message, "why": self.why, "next": self.next}


def _rebuild(
    kind: type[MdlError], message: str, why: str, next: str, details: dict[str, Any]
) -> MdlError:
    return kind(message, why=why, next=next, details=details)


def error_from_json(body: Mapping[str, Any]) -> MdlError:
    """The error behind a `to_json` object, in its own class if this version has that."""
    kinds = [MdlError]
    for kind in kinds:  # grows during the loop: the whole tree
        kinds += kind.__subclasses__()
        if kind.code == body.get("code"):
            break
    else:
        kind = MdlError
    return kind(
        str(body.get("message", "")), why=str(body.get("why", "")), next=str(body.get("next", ""))
    )


class UsageError(MdlError):
    """The request itself is wrong."""

    exit_code = 2
    code = "usage"


class NameRefusedError(UsageError):
    """Not the name of a repository or folder."""

    code = "name_refused"


class ConfigError(UsageError):
    """A setting or configuration file that cannot be used."""

    code = "config"


class NotFoundError(MdlError):
    """No such repository, revision, file or row."""

    exit_code = 3
    code = "not_found"


class NoAccessError(MdlError):
    """The Hub, or a policy, says no."""

    exit_code = 4
    code = "no_access"


class OfflineError(MdlError):
    """This needs the network, and there is none."""

    exit_code = 5
    code = "offline"


class HubFaultError(OfflineError):
    """The Hub responds, but fails on this repository; others may be fine."""


class VerificationError(MdlError):
    """Something is not what it should be."""

    exit_code = 6
    code = "verification_failed"


class BusyError(MdlError):
    """Another process is working on the same thing."""

    exit_code = 7
    code = "busy"


class StoreError(MdlError):
    """The database cannot be opened, read or upgraded."""

    code = "store"


class DiskError(MdlError):
    """No space, read-only, or a file system that refuses."""

    code = "disk"


class LoadError(MdlError):
    """A checkpoint that cannot become the model asked for."""

    code = "load"
