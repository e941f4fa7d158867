"""Names and paths of the Hugging Face cache, as pure functions of text.

`models--Org--Name` is a repository folder; inside it `blobs/<etag>`, `snapshots/<commit>/…`
(links into blobs), `refs/<name>`, `.no_exist/<commit>/…` and `trees/<commit>.json`. The root
also has `.locks/<folder>/<etag>.lock` and the cache-wide store `blobs/<2 hex>/<xet hash>`.
"""

import os
import re

from mdl.errors import NameRefusedError

REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}
PREFIXES = {repo_type: prefix for prefix, repo_type in REPO_TYPES.items()}
COMMIT_LENGTH, SHA256_LENGTH = 40, 64
# The fewest first characters that may stand for a commit.
SHORTEST_COMMIT = 7
INCOMPLETE = ".incomplete"
# llama.cpp keeps its downloads in this cache too; it takes no locks.
IN_PROGRESS = ".downloadInProgress"
STORE_MARKER = ".huggingface-shared-blobs"
# What huggingface_hub and operating systems put into the root beside repositories.
ROOT_EXTRAS = {".locks", "CACHEDIR.TAG", ".DS_Store", "blobs", "version.txt", "desktop.ini"}
_HEX = frozenset("0123456789abcdef")


def parse_folder(name: str) -> tuple[str, str] | None:
    """`(repo_type, repo_id)` of a repository folder's name; `None` for anything else."""
    prefix, separator, rest = name.partition("--")
    if not separator or not rest or prefix not in REPO_TYPES:
        return None
    return REPO_TYPES[prefix], rest.replace("--", "/")


def folder_name(repo_id: str, repo_type: str = "model") -> str:
    """The folder huggingface_hub uses for a repository in exactly this spelling.

    Raises:
        NameRefusedError: a name that could become a path.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo_id) or len(repo_id) > 200 or ".." in repo_id:
        raise NameRefusedError(
            f"{repo_id!r} is not a repository name.",
            next="Write it as org/name, for example Qwen/Qwen2.5-0.5B-Instruct.",
        )
    if repo_type not in PREFIXES:
        raise NameRefusedError(
            f"{repo_type!r} is not a repository type.", next=f"Use one of {', '.join(PREFIXES)}."
        )
    return "--".join([PREFIXES[repo_type], *repo_id.split("/")])


def split_name(name: str, repo_type: str | None = None) -> tuple[str | None, str]:
    """`(repo_type, repo_id)` of `org/name`, `model/org/name` or `datasets/org/name`."""
    head, _, rest = name.partition("/")
    kinds = {**{kind: kind for kind in REPO_TYPES.values()}, **REPO_TYPES}
    if repo_type is None and rest and head in kinds:
        return kinds[head], rest
    return repo_type, name


def is_hash(text: str, length: int) -> bool:
    """Is this a lower-case hexadecimal hash with that many digits?"""
    return len(text) == length and _HEX.issuperset(text)


def names_commit(text: str, commit: str) -> bool:
    """Is `text` this commit, or its first characters?"""
    if len(text) < SHORTEST_COMMIT or not _HEX.issuperset(text):
        return text == commit
    return commit.startswith(text)


def repo_key(repo_type: str, repo_id: str) -> str:
    """What all the casings of one repository have in common."""
    return f"{repo_type}/{repo_id.casefold()}"


def spelling_rank(repo_id: str) -> tuple[int, str]:
    """Sort key that puts the likeliest spelling first: mixed case, then lower, then upper.

    Only for display: the name a folder gets comes from the Hub, never from here.
    """
    if repo_id == repo_id.lower():
        return (1, repo_id)
    return (2 if repo_id == repo_id.upper() else 0, repo_id)


def root_id(root: str | os.PathLike[str]) -> str:
    """A short name for a cache root, the same however its path is written.

    64-bit FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): it only distinguishes the few
    roots of one machine, and importing hashlib would take a twentieth of a listing's time.
    """
    value = 0xCBF29CE484222325
    for byte in os.fsencode(os.path.realpath(root)):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"
