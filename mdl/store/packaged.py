"""The catalogue in the wheel: rows as data, with the place and hash of what they were made from.

Made by `make catalog MAPPER=… LOADER_UTILS=…`; never edited by hand.
"""

import os

from mdl.store.rows import PACKAGED, BadMirror, CatalogSource, MirrorRow

# The edition in packaged.json, here too because the file takes longer to read than a name to
# resolve; a test holds the two together.
CATALOG_VERSION = "2026.10.9"

_PATH = os.path.join(os.path.dirname(__file__), "packaged.json")


def newer_than(held: str | None) -> bool:
    """Whether the packaged edition is newer than the one a database holds."""
    if held is None or held == CATALOG_VERSION:
        return held is None
    from packaging.version import Version  # seldom needed, and slow to import

    return Version(CATALOG_VERSION) > Version(held)


def read_packaged() -> tuple[CatalogSource, list[MirrorRow], list[BadMirror]]:
    """The packaged edition: where it came from, its mirrors, its bad mirrors."""
    import json

    with open(_PATH) as file:
        content = json.load(file)
    return (
        CatalogSource(**{**content["source"], "name": PACKAGED}),
        [MirrorRow._make([*row, PACKAGED, None, None, None]) for row in content["mirrors"]],
        [BadMirror._make([*row, PACKAGED]) for row in content["bad_mirrors"]],
    )


def write_packaged(source: CatalogSource, mirrors: list[MirrorRow], bad: list[BadMirror]) -> None:
    """Write the file, one row a line, so that two editions can be compared."""
    import json

    lines = [
        "{",
        f'"source": {json.dumps(source._asdict())},',
        '"mirrors": [',
        ",\n".join(json.dumps(list(row[:7])) for row in mirrors),
        "],",
        '"bad_mirrors": [',
        ",\n".join(json.dumps(list(row[:4])) for row in bad),
        "]",
        "}\n",
    ]
    with open(_PATH, "w") as file:
        file.write("\n".join(lines))
