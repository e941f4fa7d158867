"""What a snapshot lacks: of a model what loading it needs, of anything else all that is listed."""

import json
from collections.abc import Collection, Mapping

from mdl.cachemgr.scan.model import Blob, Pointer, content_path
from mdl.cachemgr.scan.stamps import read_small
from mdl.errors import LoadError
from mdl.model_files import missing_files

MAX_JSON = 64 * 2**20  # bytes of a configuration or an index


def missing_from(
    pointers: Collection[Pointer],
    blobs: Mapping[str, Blob],
    listed: Collection[str] | None,
    place: tuple[str, str],
    *,
    is_model: bool,
) -> tuple[str, ...]:
    """The files that are needed and have no pointer. One that leads nowhere is another problem.

    Args:
        listed: every file of the revision, where a listing is known.
        place: (cache root, repository folder).
    """
    present = {pointer.path: pointer.blob for pointer in pointers}
    if not is_model:
        return tuple(sorted(path for path in listed or () if path not in present))

    def read(path: str) -> object:
        blob = present[path]
        try:
            data = None
            if blob is not None:
                data = read_small(content_path(*place, blobs[blob]), MAX_JSON)
            return json.loads(data or b"")
        except (OSError, ValueError, RecursionError) as error:
            raise LoadError(
                f"{path} cannot be read.",
                why=str(error),
                next="Check the file's permissions and its disk.",
            ) from error

    missing = missing_files(present, read, listed)
    if missing and any(path.lower().endswith(".gguf") for path in present):
        return _of_variants(present, listed or (), missing)
    return missing


def _of_variants(
    present: Collection[str], listed: Collection[str], missing: tuple[str, ...]
) -> tuple[str, ...]:
    """What the variants that are here in part still lack: of a GGUF repository one is enough."""
    from mdl.formats import Description, File, recognize

    found = recognize(Description(files=tuple(File(path) for path in listed)))
    files = [[file.path for file in variant.files] for variant in found.variants]
    begun = [path for paths in files if not set(present).isdisjoint(paths) for path in paths]
    if found.format != "gguf" or not begun:
        return missing
    return tuple(sorted(set(begun).difference(present)))
