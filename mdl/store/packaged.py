"""The catalogue in the wheel, with the origin and hash of its source.

Made by `make catalog UNSLOTH=…`; never edited by hand.
"""

import os

from mdl.store.rows import PACKAGED, BadMirror, CatalogSource, MirrorRow

# The edition in packaged.json. Here too, because reading the file takes longer than resolving a
# name; a test keeps the two equal.
CATALOG_VERSION = "2026.10.9"

_PATH = os.path.join(os.path.dirname(__file__), "packaged.json")


def newer_than(edition: str | None) -> bool:
    """Whether the packaged edition is newer than the one in a database."""
    if edition is None or edition == CATALOG_VERSION:
        return edition is None
    from packaging.version import Version  # seldom needed, and slow to import

    return Version(CATALOG_VERSION) > Version(edition)


def read_packaged() -> tuple[CatalogSource, list[MirrorRow], list[BadMirror]]:
    """The packaged edition: its source, mirrors and bad mirrors."""
    import json

    with open(_PATH) as file:
        content = json.load(file)
    return (
        CatalogSource(**{**content["source"], "name": PACKAGED}),
        [
            MirrorRow._make([*row[:7], PACKAGED, None, None, None, " ".join(row[7:]) or None])
            for row in content["mirrors"]
        ],
        [BadMirror._make([*row, PACKAGED]) for row in content["bad_mirrors"]],
    )


def write_packaged(source: CatalogSource, mirrors: list[MirrorRow], bad: list[BadMirror]) -> None:
    """Write the file, one row per line, so that editions can be diffed."""
    import json

    lines = [
        "{",
        f'"source": {json.dumps(source._asdict())},',
        '"mirrors": [',
        ",\n".join(json.dumps([*row[:7], *row.loads_in]) for row in mirrors),
        "],",
        '"bad_mirrors": [',
        ",\n".join(json.dumps(list(row[:4])) for row in bad),
        "]",
        "}\n",
    ]
    with open(_PATH, "w") as file:
        file.write("\n".join(lines))
