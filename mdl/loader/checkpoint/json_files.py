"""A checkpoint's JSON files."""

import json
from pathlib import Path
from typing import Any

from mdl.loader.checkpoint.damage import check_no_pointer, damaged_file, missing_file

MAX_JSON = 64 * 2**20  # bytes of a configuration or an index


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint.

    Raises:
        VerificationError: the file is missing, or does not contain a JSON object.
    """
    value = read_any_json(path)
    if not isinstance(value, dict):
        raise damaged_file(path, "It is not a JSON object.")
    return value


def read_any_json(path: Path) -> Any:
    """The JSON value in a file of the checkpoint.

    Raises:
        VerificationError: the file is missing, or is not JSON.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        why = "The cache's link to it is dangling." if path.is_symlink() else ""
        raise missing_file(path, why) from error
    check_no_pointer(path)
    return parse_json(data, path)


def parse_json(data: bytes, path: Path | str) -> Any:
    """The JSON value in the bytes of a file.

    Raises:
        VerificationError: it is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged_file(path, f"It is not valid JSON: {error}.") from error
