"""The processes of a run, and which files they have open, from /proc.

A process belongs to a run when the run's mark is in its environment or its ancestors lead to the
run's own process; so one that detached itself still belongs, and one that cleared its environment
belongs as long as its parents live. Only this user's processes can be looked at.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

MARK = "MDL_RUN"
_MARK = b"MDL_RUN="
# What may be a model's file: one of a cache, or weights.
_MODEL_FILE = (
    rb"/[^\n]*(?:/(?:models|datasets|spaces|kernels)--[^\n]*/[^\n]+|/blobs/[0-9a-f]{2}/[0-9a-f]{64}"
    rb"|\.(?:safetensors|gguf|bin|pt|pth|ckpt|onnx|h5|npz|msgpack))(?=\n| \(deleted\)\n)"
)
_WRITES = os.O_WRONLY | os.O_RDWR
_SECRET = r"\bhf_[A-Za-z0-9]{8,}"


class Process(NamedTuple):
    """A process as a report names it."""

    pid: int
    command: str


class RunProcesses:
    """Tells the processes of one run from all others.

    Args:
        mark: the value of `MDL_RUN` in the run's environment.
        first: the run's first process, 0 before it is started.
    """

    def __init__(self, mark: str, first: int = 0) -> None:
        self._mark = os.fsencode(mark)
        self.first = first
        self._known: dict[tuple[int, str], bool] = {}  # pid, start time → is it of the run
        self._commands: dict[int, str] = {}

    def members(self) -> list[int]:
        """The run's processes that live now, each one's command remembered."""
        parents: dict[int, tuple[int, str]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    parents[int(name)] = _parent_and_start(int(name))
        found = [pid for pid in parents if self._belongs(pid, parents)]
        self._known = {(p, s): self._known[p, s] for p, (_, s) in parents.items()}
        for pid in found:
            self.command(pid)
        return found

    def command(self, pid: int) -> str:
        """The command line of a process, remembered when it is gone; `""` when never seen."""
        said = command_line(pid)
        if said:
            self._commands[pid] = said
        return self._commands.get(pid, "")

    def open_now(self) -> dict[str, int]:
        """Path of a model's file → the process of this run that has it open or mapped now."""
        found: dict[str, int] = {}
        for pid in self.members():
            for path in open_files_of(pid):
                found.setdefault(path, pid)
        return found

    def open_elsewhere(self) -> dict[str, int]:
        """The same of all other processes that may be looked at."""
        ours = {*self.members(), os.getpid()}
        found: dict[str, int] = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in ours:
                for path in open_files_of(int(name)):
                    found.setdefault(path, int(name))
        return found

    def _belongs(self, pid: int, parents: Mapping[int, tuple[int, str]]) -> bool:
        parent, start = parents[pid]
        known = self._known.get((pid, start))
        if known is None:
            known = (
                pid == self.first
                or (parent in parents and parent != pid and self._belongs(parent, parents))
                or self._has_mark(pid)
            )
            self._known[pid, start] = known
        return known

    def _has_mark(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                for entry in file.read().split(b"\0"):
                    if entry.startswith(_MARK):
                        return self._mark in entry[len(_MARK) :].split(b":")
        except OSError:
            pass
        return False


def open_files_of(pid: int) -> Iterator[str]:
    """The model files that a process has mapped, or open but not for writing."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            maps = file.read()
        for match in re.finditer(_MODEL_FILE, maps):
            if b" rw-s " not in maps[maps.rfind(b"\n", 0, match.start()) + 1 : match.start()]:
                yield os.fsdecode(match[0])
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.fsencode(os.readlink(f"/proc/{pid}/fd/{fd}"))
                whole = re.match(_MODEL_FILE, target + b"\n")
                if whole and not _is_written(pid, fd):
                    yield os.fsdecode(whole[0])
    except OSError:
        return


def command_line(pid: int) -> str:
    """A process's command line on one line, without tokens; `""` for one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return without_tokens(" ".join(os.fsdecode(word) for word in words))


def without_tokens(text: str) -> str:
    """A text with every Hub token in it blanked out."""
    return re.sub(_SECRET, "hf_…", text) if "hf_" in text else text


def _is_written(pid: int, fd: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        for line in file:
            if line.startswith("flags:"):
                return bool(int(line.split()[1], 8) & _WRITES)
    return False


def _parent_and_start(pid: int) -> tuple[int, str]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field may hold anything, parentheses and blanks included.
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), fields[19].decode()
