"""Errors for files of a checkpoint that are damaged, missing, or Git LFS pointers."""

from pathlib import Path

from mdl.errors import VerificationError

_POINTER = b"version https://git-lfs.github.com/spec/v"
MAX_POINTER = 1024  # bytes; Git LFS's own limit


def is_lfs_pointer(text: bytes) -> bool:
    """Whether a file's first bytes are those of a Git LFS pointer."""
    return text.startswith(_POINTER)


def check_no_pointer(path: Path) -> None:
    """Reject a Git LFS pointer in place of a file.

    Raises:
        VerificationError: it is one.
    """
    try:
        if path.stat().st_size > MAX_POINTER:
            return
        text = path.read_bytes()
    except OSError:
        return
    if is_lfs_pointer(text):
        raise VerificationError(
            f"{path} is a Git LFS pointer, not the file itself.",
            why="The repository was cloned without Git LFS, or the pointer itself was uploaded.",
            next="Run `git lfs pull` in the clone, or download the repository with `mdl pull`.",
        )


def damaged_file(path: Path | str, why: str) -> VerificationError:
    """The error for a file of a checkpoint that cannot be used."""
    return VerificationError(
        f"{path} is damaged.",
        why=why,
        next="If it was downloaded, `mdl pull NAME --repair` downloads damaged files again.",
    )


def missing_file(path: Path, why: str) -> VerificationError:
    """The error for a file of a checkpoint that is not there."""
    downloaded = path.parent.parent.name == "snapshots"
    return VerificationError(
        f"{path} is missing.",
        why=why,
        next="`mdl pull NAME` downloads it."
        if downloaded
        else "Copy it into the folder, or load the repository by its name.",
        details={"missing": path.name},
    )
