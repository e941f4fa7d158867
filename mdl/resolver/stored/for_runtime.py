"""Resolve for a runtime: the best format that it loads on this machine."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mdl.errors import MdlError
from mdl.formatting import human_size
from mdl.resolver.stored import refusals
from mdl.resolver.stored.hardware import Hardware
from mdl.resolver.stored.runtime import memory_needed, preferred, unsupported
from mdl.resolver.types import Resolution, ResolveOptions, ResolveRequest, TraceStep

if TYPE_CHECKING:
    from mdl.resolver.stored.lookup import StoredLookup

# What mdl or the runtime itself makes from 16-bit weights while loading.
_MADE_ON_LOAD = {"transformers": ("bnb-4bit",), "unsloth": ("bnb-4bit",)}


def resolve_for(
    request: ResolveRequest,
    hardware: Hardware,
    lookup: "StoredLookup",
    ordinary: Callable[[ResolveRequest], Resolution],
) -> Resolution:
    """Try a runtime's formats, best first; each that is not taken leaves its reason in the trace.

    Args:
        ordinary: resolves formats that mdl makes on load.
    """
    runtime = str(request.options.runtime)
    fit = hardware.room if request.options.fit == "auto" else request.options.fit
    options = request.options._replace(runtime=None, fit=fit)
    request = request._replace(options=options, runtime=runtime)
    formats = preferred(runtime, hardware, largest=fit is not None)
    own = [name for name in lookup.own_formats(request) if name not in ("16bit", "adapter")]
    trace: list[TraceStep] = []
    last: Resolution | None = None
    for format in dict.fromkeys((*own, *formats)):
        reason = unsupported(format, hardware)
        if reason is not None:
            trace.append(TraceStep(format, "rejected", reason))
            continue
        asked = request._replace(options=options._replace(format=format))
        if format in ("16bit", "bnb-4bit", "8bit"):
            last = ordinary(asked)
        else:
            last = lookup.resolve(asked)
        reason = _against(last, runtime, format) or _too_large(lookup, asked, last)
        if reason is None:
            step = TraceStep(runtime, "noted", f"{format} is the best it runs on {hardware.text}")
            return last._replace(trace=(*trace, step, *last.trace))
        trace += [step for step in last.trace if step.verdict == "rejected"]
        trace.append(TraceStep(format, "rejected", reason))
    tried = [f"{step.candidate}: {step.reason}" for step in trace if step.candidate in formats]
    error = refusals.nothing_for(request.name.text, runtime, tried)
    return _refused(request, options, error, last, tuple(trace))


def _against(found: Resolution, runtime: str, format: str) -> str | None:
    if found.error is not None:
        return found.error.message
    if found.quantize_on_load and format not in _MADE_ON_LOAD.get(runtime, ()):
        return f"only 16-bit weights are known, and {runtime} does not make {format} of them"
    if found.runtimes and runtime not in found.runtimes:
        return f"{runtime} does not load {found.repo_id}"
    return None


def _too_large(lookup: "StoredLookup", request: ResolveRequest, found: Resolution) -> str | None:
    """Why 16-bit weights do not fit; the lookup itself has looked at stored formats."""
    fit = request.options.fit
    if request.options.format != "16bit" or not isinstance(fit, int):
        return None
    known = lookup.own_memory(request)
    if known is None:
        return None
    needed = memory_needed(*known, request.options.context)
    if needed <= fit:
        return None
    return f"16-bit weights need {human_size(needed)}: more than {human_size(fit)}"


def _refused(
    request: ResolveRequest,
    options: ResolveOptions,
    error: MdlError,
    last: Resolution | None,
    trace: tuple[TraceStep, ...],
) -> Resolution:
    name = request.name.text
    made = Resolution(
        requested=name, canonical=last.canonical if last is not None else name, repo_id=name,
        revision=options.revision, commit=None, format=options.format, substituted=False,
        quantize_on_load=False, gated=None, access="unknown", source="hub", rule="refused",
        trace=trace, alternatives=(), cached=None, error=error,
    )  # fmt: skip
    body = made.to_json()
    del body["error"]
    error.details = {**body, **error.details}
    return made
