"""Resolving a name that is a folder on this machine."""

import json
import os
from pathlib import Path

from mdl.errors import NotFoundError, UsageError
from mdl.folders import files_below
from mdl.formats import Variant, config_format, describe_folder, find_tables, recognize
from mdl.model_files import ADAPTER, adapter_base, is_adapter, may_belong, not_a_model
from mdl.resolver.candidates import adapter_reason
from mdl.resolver.names import Name
from mdl.resolver.types import Cached, Resolution, ResolveOptions, TraceStep


def resolve_folder(name: Name, options: ResolveOptions) -> Resolution:
    """Take a folder as it is; its configuration says what its weights are.

    Raises:
        NotFoundError: it does not contain a model.
        UsageError: a revision was asked for, its configuration cannot be read, or its weights
            cannot become the format asked for.
    """
    path = str(name.path)
    if options.revision is not None:
        raise UsageError(
            f"{name.text} is a folder and has no revisions.", next="Leave out --revision."
        )
    variant = _gguf_variant(name, options)
    if variant is not None:
        weights, reason, size = "gguf", "a local folder is used as it is", variant.size or 0
    else:
        weights, reason, size = _weights_in(name)
    quantize = options.format not in ("16bit", weights) and weights != "adapter"
    if quantize and weights != "16bit":
        raise UsageError(
            f"{name.text} is {weights} and cannot become {options.format}.",
            next="Leave out the format, or give the folder of the float model.",
            details={"requested": name.text},
        )
    return Resolution(
        requested=name.text,
        canonical=path,
        repo_id=path,
        revision=None,
        commit=None,
        format=options.label if variant is None else "gguf",
        substituted=False,
        quantize_on_load=quantize,
        gated=False,
        access="open",
        source="local",
        rule="local",
        trace=(TraceStep(path, "accepted", reason),),
        alternatives=(),
        cached=Cached(True, path, size, None, path),
        weights=weights,
        variant=None if variant is None else variant.name,
        files=None if variant is None else variant.files,
    )


def _gguf_variant(name: Name, options: ResolveOptions) -> Variant | None:
    """The GGUF variant that is asked for, or the default of a folder that is only GGUF.

    Raises:
        NotFoundError: the folder has no such variant.
    """
    folder = Path(str(name.path))
    asked = options.format == "gguf" or (options.format == "16bit" and options.variant is not None)
    if not asked and (folder / "config.json").exists():
        return None
    found = recognize(describe_folder(folder)).of("gguf")
    if found is None or not found.variants:
        return None
    variant = found.variant(options.variant) if options.variant else found.variants[0]
    if variant is None:
        raise NotFoundError(
            f"The folder {name.text} has no GGUF variant {options.variant}.",
            why=f"It has {', '.join(each.name for each in found.variants)}.",
            next="Ask for one of these.",
            details={"requested": name.text},
        )
    return variant


def _weights_in(name: Name) -> tuple[str, str, int]:
    """The format of a folder's weights, why the folder is taken, and the bytes of its files."""
    folder, file = Path(str(name.path)), "config.json"
    try:
        with os.scandir(folder) as entries:  # thousands of other files cost next to nothing
            files = [entry for entry in entries if may_belong(entry.name)]
        size = sum(entry.stat().st_size for entry in files if entry.is_file())
        if is_adapter([entry.name for entry in files]):
            file = ADAPTER
            base = adapter_base(json.loads((folder / ADAPTER).read_text()))
            return "adapter", adapter_reason(base), size
        config = json.loads((folder / file).read_text())
        table = next((table for _, table in find_tables(config)), None)
        return config_format(table), "a local folder is used as it is", size
    except FileNotFoundError:
        raise _no_model(name) from None
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{name.text}/{file} cannot be read.",
            why=str(error),
            next="Fix the file, or download the folder again: it should be the model's own JSON.",
            details={"requested": name.text},
        ) from error


def _no_model(name: Name) -> NotFoundError:
    error = not_a_model(list(files_below(Path(str(name.path)))))
    return NotFoundError(
        f"The folder {name.text} does not contain a model.",
        why=f"{error.message} {error.why}",
        next=error.next,
        details={"requested": name.text},
    )
