"""Our answers beside Unsloth's `get_model_name`, for every name in its tables.

    python -m benchmarks.parity PATH_OF_UNPACKED_WHEEL [--verbose]

Runs Unsloth's own functions (taken out of the wheel's mapper.py and loader_utils.py, offline, as
its installed package would run them) and ours (a fresh database holding an import of the same
wheel, no Hub) under 4-bit, 16-bit, block and row scaled fp8 requests, in original and lower casing.
Every difference must fall into a class listed below, where it is said why ours is right; a
difference outside them fails the command.
"""

import argparse
import ast
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdl.formats import claimed_format
from mdl.resolver import Resolution, ResolveOptions, Resolver
from mdl.resolver.unsloth_table import read_table, rows_of, source_of
from mdl.settings import Settings

# Why ours differs, each with the test that puts a difference into the class.
WHY = {
    "fp8 answer to a 16-bit request": (
        "Unsloth answers a 16-bit request for a publisher's fp8 repository with another fp8"
        " repository; ours goes to the 16-bit one."
    ),
    "bf16 name taken for 4-bit": (
        "The table lists a bf16 repository in the 4-bit place, so Unsloth sends a 16-bit request"
        " for it elsewhere; it already is 16-bit."
    ),
    "4-bit weights cannot become fp8": (
        "Unsloth keeps a 4-bit repository for an fp8 request; ours takes the float repository and"
        " converts that."
    ),
    "fp8 weights for a 4-bit request": (
        "Unsloth has no answer and keeps an fp8 repository; ours takes the 4-bit mirror or the"
        " float repository."
    ),
    "a repository already in fp8": (
        "The name asked for is an fp8 repository already; Unsloth moves it to another scaling,"
        " ours keeps what was named."
    ),
    "4-bit answer to a 16-bit request": (
        "Unsloth has no float row for this 4-bit name and keeps it; ours goes to the family's"
        " float repository."
    ),
    "MXFP4 weights": (
        "gpt-oss is published in MXFP4, which is not converted to another quantization on load;"
        " Unsloth keeps the name, ours refuses."
    ),
    "experts packed one by one": (
        "transformers cannot load this 4-bit mixture; ours takes its float repository."
    ),
}


def their_functions(wheel: Path) -> tuple[Callable[..., str], list[str]]:
    """Unsloth's `get_model_name` and every name in its tables."""
    models = wheel / "unsloth" / "models"
    mapper = importlib.util.spec_from_file_location("unsloth_mapper", models / "mapper.py")
    assert mapper is not None and mapper.loader is not None
    module = importlib.util.module_from_spec(mapper)
    mapper.loader.exec_module(module)
    wanted = {"__get_model_name", "_resolve_with_mappers", "get_model_name",
              "_prefer_legacy_lowercase_cache"}  # fmt: skip
    body = [
        node
        for node in ast.parse((models / "loader_utils.py").read_text()).body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "BAD_MAPPINGS")
    ]
    space: dict[str, Any] = {
        **{name: getattr(module, name) for name in module.__all__},
        "os": os,
        "importlib": importlib,
        "SUPPORTS_FOURBIT": True,
        "_env_says_offline": lambda: True,
    }
    code = compile(ast.Module(body, []), "loader_utils.py", "exec")
    exec(code, space)
    names: dict[str, None] = {}
    for table in module.__all__:
        for key, value in getattr(module, table).items():
            names |= dict.fromkeys(n for n in (key, value) if n)
    # An all-lower-case key is only a second spelling of a name the tables also hold as it is.
    spelled = {n.lower(): n for n in sorted(names, reverse=True)}
    return space["get_model_name"], sorted(spelled.values())


def classify(name: str, options: ResolveOptions, theirs: str, ours: Resolution) -> str | None:
    """Which class of WHY a difference belongs to, `None` for an unexplained one."""
    asked, answered = claimed_format(name), claimed_format(theirs)
    # The tables know fp8 repositories by their own name and with "-dynamic" behind it.
    is_fp8 = asked == "fp8" or name.lower().endswith("-dynamic")
    found: str | None = None
    if ours.error is not None:
        return "MXFP4 weights" if "gpt-oss" in name.lower() and "mxfp4" in ours.error.why else None
    if options.format == "16bit" and asked in (None, "16bit") and name.lower().endswith("-bf16"):
        found = "bf16 name taken for 4-bit"
    elif options.format == "16bit" and answered == "bnb-4bit" and not claimed_format(ours.repo_id):
        found = "4-bit answer to a 16-bit request"
    elif options.format == "fp8" and answered == "bnb-4bit" and not claimed_format(ours.repo_id):
        found = "4-bit weights cannot become fp8"
    elif options.format == "16bit" and answered == "fp8" and claimed_format(ours.repo_id) is None:
        found = "fp8 answer to a 16-bit request"
    elif options.format == "bnb-4bit" and is_fp8 and theirs.lower() == name.lower():
        found = "fp8 weights for a 4-bit request"
    elif any(s.candidate == theirs and "cannot load it" in s.reason for s in ours.trace):
        found = "experts packed one by one"
    elif options.format == "fp8" and asked == "fp8" and ours.repo_id.lower() == name.lower():
        found = "a repository already in fp8"
    return found


def compare(wheel: Path, verbose: bool) -> int:
    get_model_name, names = their_functions(wheel)
    models = wheel / "unsloth" / "models"
    table = read_table(models / "mapper.py", models / "loader_utils.py", "benchmark")
    requests = [
        ResolveOptions("bnb-4bit"),
        ResolveOptions("16bit"),
        ResolveOptions("fp8"),
        ResolveOptions("fp8", fp8_scaling="row"),
    ]
    cases, differences, unexplained = 0, Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        resolver = Resolver(Settings(Path(folder), Path(folder) / "hub", offline=True))
        resolver.catalog.import_rows(source_of(table, "packaged"), rows_of(table), table.bad)
        for options in requests:
            os.environ["UNSLOTH_HAS_FBGEMM"] = "1" if options.fp8_scaling == "row" else "0"
            fp8: bool | str = options.format == "fp8"
            for name in names:
                for spelling in dict.fromkeys((name, name.lower())):
                    with contextlib.redirect_stdout(sys.stderr):
                        theirs = get_model_name(spelling, options.format == "bnb-4bit", fp8)
                    ours = resolver.resolve(spelling, options)
                    cases += 1
                    # Where Unsloth keeps the name it keeps its casing; ours is the Hub's.
                    if ours.error is None and ours.repo_id.lower() == theirs.lower():
                        continue
                    why = classify(spelling, options, theirs, ours)
                    differences[why or "unexplained"] += 1
                    case = f"{options.label}/{options.fp8_scaling} {spelling}"
                    line = f"{case}: {theirs} | {ours.repo_id}"
                    if why is None:
                        unexplained.append(line)
                    elif verbose:
                        print(f"[{why}] {line}")
        resolver.close()
    print(f"{len(names)} names, {cases} cases, {cases - sum(differences.values())} equal")
    for why, count in differences.most_common():
        print(f"{count:5}  {why}: {WHY.get(why, '')}")
    for line in unexplained[:40]:
        print("  unexplained:", line)
    return 1 if unexplained else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    sys.exit(compare(arguments.wheel, arguments.verbose))
