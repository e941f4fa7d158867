"""What a run is expected to open: `NAME[=FORMAT][@REVISION]`."""

import os
import re
from typing import NamedTuple

from mdl.errors import UsageError
from mdl.formats import LOADS
from mdl.observe.report import FolderLoad, KnownMirror, Load
from mdl.resolver import Name, parse_name

AnyLoad = Load | FolderLoad

_SYNTAX = re.compile(
    r"(?P<name>[^=@]+)(?:=(?P<format>[\w.-]+(?::[\w.-]+)?))?(?:@(?P<revision>.+))?"
)
EXACT = "exact"
_SAME = {"8bit": "bnb-8bit"}  # an older spelling
_FORMATS = {*LOADS, *_SAME, "adapter", EXACT}
_SHORTEST_COMMIT = 7


class Expectation(NamedTuple):
    """`NAME[=FORMAT][@REVISION]`.

    Without a format, or with `exact`, the repository itself has to be opened; with another one it,
    or a mirror of it that the catalogue knows, with weights of that format.
    """

    text: str
    name: Name
    format: str | None
    variant: str | None
    revision: str | None

    @property
    def shown(self) -> str:
        """As an error says it: `org/name, exact`."""
        format = f"{self.format}:{self.variant}" if self.variant else self.format
        revision = f"at {self.revision}" if self.revision else None
        return ", ".join(filter(None, [self.name.text, format, revision]))

    def is_itself(self, load: AnyLoad) -> bool:
        """Whether this is the repository or folder that is named."""
        if isinstance(load, FolderLoad):
            return self.name.path is not None and os.path.realpath(self.name.path) == load.path
        return self.name.key in (load.repo_id.lower(), load.spelling.lower())

    def mirror(self, load: AnyLoad) -> KnownMirror | None:
        """The catalogue's word that a load is a mirror of what is named."""
        mirrors = load.mirror_of if isinstance(load, Load) else ()
        return next((each for each in mirrors if each.name.lower() == self.name.key), None)

    def met_by(self, load: AnyLoad) -> bool:
        return load.weights and not self.against(load)

    def against(self, load: AnyLoad) -> str:
        """Why a load is not what is expected; `""` where it is."""
        itself = self.is_itself(load)
        if not itself and (self.format in (None, EXACT) or self.mirror(load) is None):
            return "it is another repository"
        if self.format not in (None, EXACT) and not self._has_format(load):
            return f"its weights are {load.format or 'of an unknown format'}"
        if self.revision and not itself:
            return "a revision of the repository says nothing about its mirror"
        if self.revision and not (isinstance(load, Load) and has_revision(load, self.revision)):
            commit = load.commit if isinstance(load, Load) else None
            return f"it was opened at {commit[:12] if commit else 'an unknown commit'}"
        return ""

    def _has_format(self, load: AnyLoad) -> bool:
        if load.format != _SAME.get(self.format or "", self.format):
            return False
        variant = (self.variant or "").lower()
        return any(variant in os.path.basename(file.path).lower() for file in load.files)


def parse_expectation(text: str) -> Expectation:
    """Read `NAME[=FORMAT][@REVISION]`.

    Raises:
        UsageError: it is none; the error says what is wrong.
    """
    match = _SYNTAX.fullmatch(text.strip())
    format, _, variant = ((match["format"] if match else None) or "").partition(":")
    if match is None or (format and format not in _FORMATS):
        raise UsageError(
            f"{text!r} cannot be expected.",
            why=f"{format!r} is not a format" if format else "",
            next="Write NAME, NAME=FORMAT or NAME=FORMAT@REVISION,"
            " for example Qwen/Qwen2.5-0.5B-Instruct=bnb-4bit.",
        )
    return Expectation(
        text, parse_name(match["name"]), format or None, variant or None, match["revision"]
    )


def has_revision(load: Load, revision: str) -> bool:
    """Whether a load's files are those of a branch, tag or (abbreviated) commit."""
    commits = [commit for commit in (load.commit, *load.same_in) if commit]
    if revision in (*load.refs, *commits):
        return True
    return len(revision) >= _SHORTEST_COMMIT and any(c.startswith(revision) for c in commits)
