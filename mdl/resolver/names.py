"""Parse what people type: a repository name, a local folder, or neither."""

import os
import re
from typing import NamedTuple

from mdl.errors import NameRefusedError, NotFoundError

# The Hub's own rule (huggingface_hub.utils.validate_repo_id), in ASCII only: a name with a
# Cyrillic "а" must not pass for the one it imitates.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")
_MAX_LENGTH = 96  # of the owner, and of the name
_HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
_PATH_STARTS = ("/", "./", "../", "~", ".\\", "..\\")
# Left to `re` to compile when needed: most names come without a revision.
_COMMIT = r"[0-9a-f]{40}"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._/+-]*"


class Name(NamedTuple):
    """A checked name.

    Attributes:
        text: as typed, without surrounding white space.
        key: lower case, what every table and cache look-up uses; the path of a folder as it is.
        path: the folder's absolute path when the name is one, else `None`.
        typed: what was typed instead, where it could only mean this name: a page's address,
            `org/name/`, `models--org--name`, `org\\name`.
        variant: what stood behind the name's colon: `org/name:Q4_K_M`.
    """

    text: str
    key: str
    path: str | None = None
    typed: str = ""
    variant: str | None = None


def parse_name(
    text: str, *, allow_local: bool = True, endpoint: str = "", allow_variant: bool = False
) -> Name:
    """Check a name and tell repositories from folders; a local folder wins over a repository.

    A folder whose name could also be a repository's counts only if it contains a `config.json` or
    `params.json`: an empty `gpt2/` beside a script must not hide the model of that name.

    Args:
        endpoint: the address of a Hub whose pages' addresses are understood, as huggingface.co's.

    Raises:
        NameRefusedError: no repository can have this name; the error says why.
        NotFoundError: it is written as a path, and the folder does not exist.
    """
    name = text.strip()
    if allow_local and name.startswith(_PATH_STARTS):
        return _folder(name)
    if _is_repository(name):
        if allow_local and os.path.isdir(name) and _is_model_folder(name):
            return Name(name, name, os.path.abspath(name))
        return Name(name, name.lower())
    if allow_variant and (split := _split_variant(name, endpoint)) is not None:
        return split
    meant = _understood(name, endpoint)
    local = allow_local and 0 < len(name) < 4096 and "\0" not in name and os.path.isdir(name)
    if local and (not meant or name.endswith("/") or _is_model_folder(name)):
        return _folder(name)
    if meant:
        return Name(meant, meant.lower(), typed=name)
    raise NameRefusedError(
        f"{shown(name)} is not a model name.",
        why=_why_refused(name),
        next=_meant(name) or "Write org/name, as in the model page's title, or a folder's path.",
        details={"requested": text[:_MAX_LENGTH]},
    )


def parse_revision(text: str | None) -> str | None:
    """Check a revision: a branch, a tag, `refs/pr/N` or a commit.

    Raises:
        NameRefusedError: no revision can have this name.
    """
    if text is None:
        return None
    if len(text) > 255 or not re.fullmatch(_REVISION, text) or ".." in text or "//" in text:
        raise NameRefusedError(
            f"{shown(text)} is not a revision.",
            next="Write a branch, a tag, refs/pr/N or a commit hash.",
        )
    return text


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit hash, which never moves."""
    return revision is not None and re.fullmatch(_COMMIT, revision) is not None


def shown(text: str, limit: int = 60) -> str:
    """Untrusted text, quoted, escaped and short enough for an error message."""
    short = text if len(text) <= limit else text[:limit] + "…"
    return ascii(short) if not short.isprintable() else repr(short)


def _is_repository(name: str) -> bool:
    if not _REPOSITORY.fullmatch(name) or _reserved(name):
        return False
    return len(name) <= _MAX_LENGTH or all(len(part) <= _MAX_LENGTH for part in name.split("/"))


def _reserved(name: str) -> bool:
    return "--" in name or ".." in name or name.lower().endswith((".git", ".ipynb"))


def _is_model_folder(path: str) -> bool:
    return any(os.path.isfile(f"{path}/{f}") for f in ("config.json", "params.json"))


def _folder(name: str) -> Name:
    path = os.path.abspath(os.path.expanduser(name)) if "\0" not in name else ""
    if os.path.isdir(path):
        return Name(name, path, path)
    kind = "is a file" if os.path.exists(path) else "does not exist"
    gguf = "Give the folder it is in; --format gguf:VARIANT (format=) names one of several files."
    raise NotFoundError(
        f"There is no folder {shown(name)}.",
        why=f"{shown(path) if path else 'the path'} {kind}",
        next=gguf
        if kind == "is a file" and path.lower().endswith(".gguf")
        else "Give the folder with config.json, or a repository as org/name.",
        details={"requested": name[:_MAX_LENGTH]},
    )


def _split_variant(name: str, endpoint: str) -> Name | None:
    """The repository and variant in `org/name:Q4_K_M` and `hf.co/org/name:Q4_K_M`."""
    from mdl.formats import is_variant, type_in

    head, colon, variant = name.rpartition(":")
    if not colon or not is_variant(variant) or os.path.exists(name):
        return None
    repository = head if _is_repository(head) else _understood(head, endpoint)
    if not repository or ("/" not in repository and type_in(variant) is None):
        return None
    found = None if variant.lower() == "latest" else variant  # Ollama's word for the default
    typed = "" if head == repository else name
    return Name(repository, repository.lower(), typed=typed, variant=found)


def _understood(name: str, endpoint: str) -> str:
    """The repository that a text can only mean: its page's address, its folder in a cache, its
    name with a slash behind it or with Windows' between its parts; empty for anything else."""
    path = name
    host, slash, rest = re.sub(r"^https?://", "", name, flags=re.IGNORECASE).partition("/")
    if name.startswith("hf://"):
        path = name.removeprefix("hf://")
    elif slash and host.lower() in (*_HUBS, endpoint.partition("://")[2]):
        path = re.sub(r"[?#].*|/tree/main/?$", "", rest)
    elif name.startswith("models--"):
        path = name.removeprefix("models--").replace("--", "/", 1)
    elif name.count("\\") == 1:
        path = name.replace("\\", "/")
    path = re.sub(r"^models?/(?=[^/]+/[^/])", "", path).removesuffix("/")
    return path if _is_repository(path) else ""


def _meant(name: str) -> str:
    """What to write instead, for what people paste: a page's address, `org/name@revision`."""
    address = re.fullmatch(r"(?:\w+://)?[\w.-]+\.\w+(?::\d+)?/(.+)|hf://(.+)", name)
    path = (address[1] or address[2]) if address else name
    path, _, revision = path.partition("?")[0].strip("/").partition("@")
    path = re.sub(r"^models?/(?=[^/]+/)", "", path)
    place, _, rest = re.sub("/(blob|resolve)/", "/tree/", path).partition("/tree/")
    if place == name or not _is_repository(place):
        return ""
    revision = revision or rest.partition("/")[0]
    return f"Write {place}" + (f", and {revision!r} as its revision." if revision else ".")


def _why_refused(name: str) -> str:
    if not name:
        return "it is empty"
    if "://" in name:
        return "it is an address"
    longest = max(map(len, name.split("/")))
    if longest > _MAX_LENGTH:
        limit = f"the Hub allows {_MAX_LENGTH} in an owner and in a name"
        return f"a part of it has {longest} characters; {limit}"
    for character in name:
        if not character.isascii():
            import unicodedata

            described = unicodedata.name(character, "unnamed")
            return f"it has the character {character!a} ({described}); names are ASCII"
        if not (character.isalnum() or character in "._-/"):
            return f"it has the character {character!r}"
    if ".." in name or "--" in name:
        return "it has '..' or '--', which no repository name may have"
    if name.count("/") > 1:
        return "it has more than one '/'"
    if name.lower().endswith((".git", ".ipynb")):
        return "it ends in .git or .ipynb, which no repository name may"
    return "a part of it is empty, or starts or ends with '.' or '-'"


def has_other_owner(old: str, new: str) -> bool:
    """Whether a redirect leads to another owner's repository.

    A name without an owner (`gpt2`) is from the Hub's first years; the Hub itself gave each to
    its publisher, so following one is a rename.
    """
    owner, slash, _ = old.lower().partition("/")
    return bool(slash) and owner != new.lower().partition("/")[0]
