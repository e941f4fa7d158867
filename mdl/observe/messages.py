"""The folder in which the Python processes of a run say what they do; see `hook`."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mdl.errors import DiskError
from mdl.observe import linux
from mdl.observe.linux import Inotify
from mdl.observe.processes import MARK, without_tokens

_HOOK = os.path.join(os.path.dirname(__file__), "hook")
_PREFIX = "mdl-run-"
_ROOTS = "roots"
_LONGEST = 1 << 16


class Message(NamedTuple):
    """What a process said: `kind` and `fields` are those of `hook.Hook`."""

    kind: str
    at: float
    pid: int
    command: str
    fields: tuple[str, ...]


class Inbox:
    """A run's folder for messages, private to the user; its path is the run's mark.

    Args:
        roots: the cache roots that are watched, for the processes to know.

    Raises:
        DiskError: no folder can be made.
        OSError: the user's inotify instances are used up.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self.path = _make_folder()
        with open(f"{self.path}/{_ROOTS}", "w", errors="surrogateescape") as file:
            file.write("\0".join(roots))
        self._inotify = Inotify()
        self._inotify.add(self.path, linux.CLOSE_WRITE)
        self.fd = self._inotify.fd

    def read(self) -> Iterator[Message]:
        """The messages that came; each is removed when the next is asked for, as its receipt."""
        for event in self._inotify.read():
            path = f"{self.path}/{os.fsdecode(event.name)}"
            message = _read(path)
            if message is not None:
                yield message
            with contextlib.suppress(OSError):
                os.unlink(path)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with what makes Python processes write messages, to outer runs too."""
        path, outer = env.get("PYTHONPATH"), env.get(MARK)
        return {
            **env,
            MARK: f"{self.path}{os.pathsep}{outer}" if outer else self.path,
            "PYTHONPATH": f"{_HOOK}{os.pathsep}{path}" if path else _HOOK,
        }

    def close(self) -> None:
        """Remove the folder: what still runs stops writing."""
        os.close(self.fd)
        _remove(self.path)
        _remove_abandoned(os.path.dirname(self.path))


def _make_folder() -> str:
    tried = [os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp"]
    for folder in tried:
        path = f"{folder}/{_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
        if folder and os.path.isabs(folder) and os.pathsep not in folder:
            with contextlib.suppress(OSError):
                os.mkdir(path, 0o700)
                return path
    raise DiskError(
        "No folder for temporary files can be written.",
        why=f"tried {', '.join(filter(None, tried))}",
        next="Set TMPDIR to one that can.",
    )


def _remove(folder: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)


def _remove_abandoned(folder: str) -> None:
    """Remove the folders of runs that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            pid = entry.name.removeprefix(_PREFIX).partition("-")[0]
            if (
                entry.name.startswith(_PREFIX)
                and pid.isdigit()
                and entry.stat(follow_symlinks=False).st_uid == os.getuid()
                and entry.is_dir(follow_symlinks=False)
                and not os.path.exists(f"/proc/{pid}")
            ):
                _remove(entry.path)


def _read(path: str) -> Message | None:
    """A message, or `None` where the file is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            kind, at, pid, command, *fields = file.read(_LONGEST).split("\0")
        return Message(kind, float(at), int(pid), without_tokens(command), tuple(fields))
    except (OSError, ValueError):
        return None
