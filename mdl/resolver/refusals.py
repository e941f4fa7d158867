"""The errors of the rules: what happened, why, and what to do next. Pure functions."""

from collections.abc import Iterable, Sequence

from mdl.errors import MdlError, NoAccessError, NotFoundError, OfflineError, UsageError
from mdl.formatting import counted
from mdl.resolver.names import Name, is_commit
from mdl.resolver.types import RepoInfo, ResolveOptions, TraceStep

ACCESS_WORDS = {
    "no_token": "it is gated and no token was given",
    "bad_token": "it is gated and the Hub does not accept the token",
    "not_requested": "it is gated and access was not requested",
    "pending": "it is gated and the access request awaits review by its author",
    "rejected": "it is gated and its author rejected the access request",
    "unknown": "it is gated, and whether this token may read it is unknown",
}

_SHOWN = 10  # revisions named at most

# How to ask for weights that a repository has, where a flag does.
_TAKES = {
    "bnb-4bit": "--4bit (load_in_4bit=True)",
    "8bit": "--8bit (load_in_8bit=True)",
    "fp8": "--fp8 (load_in_fp8=True)",
}


def moved_to_another_owner(name: str, repo_id: str) -> MdlError:
    return NotFoundError(
        f"{name} is now {repo_id}, which belongs to another owner.",
        why="the Hub redirects the old name; an exact name is never redirected",
        next=f"If {repo_id} is what you want, ask for it by that name.",
    )


def unknown_offline(name: str) -> MdlError:
    return OfflineError(
        f"{name} is unknown on this machine.",
        why="it is neither in the catalogue nor in the cache, and mdl is offline",
        next="Check the spelling, or try again online.",
    )


def not_at_revision(name: str, revision: str | None, here: Sequence[str]) -> OfflineError:
    """Offline, and the cache has other commits of it: nothing says which one is meant."""
    at = f" at {revision}" if revision else ""
    close = _close(revision or "main", here) or here
    return OfflineError(
        f"{name}{at} is not in the cache, and mdl is offline.",
        why=f"It has no ref {revision or 'main'} to a commit in it. It has: {', '.join(here[:5])}.",
        next=f"Name one that is here: --revision {close[0]} (revision=).",
        details={"commits": [each for each in here if is_commit(each)]},
    )


def not_to_be_had(own: RepoInfo, name: str, canonical: str, revision: str | None) -> MdlError:
    """The Hub was asked and has no such repository or revision, or has disabled it."""
    if own.state == "no_revision":
        return NotFoundError(
            f"{canonical} has no revision {revision!r}.",
            why=own.message,
            next=_of_these(revision or "main", own.revisions),
            details={"revisions": list(own.revisions)},
        )
    if own.state == "disabled":
        return NoAccessError(
            f"{canonical} is disabled on the Hub.",
            why=own.message,
            next="Its page may give the reason, or name a replacement.",
        )
    return NotFoundError(
        f"{name} does not exist, or is not visible to this token.",
        why=own.message or "the Hub answers 404",
        next="Check the spelling; a private repository needs a token of its owner.",
    )


def _of_these(revision: str, revisions: Sequence[str]) -> str:
    """Which branch or tag could be meant, and which there are."""
    if not revisions:
        return "Its page lists its branches and tags."
    close = _close(revision, revisions)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    more = f", and {len(revisions) - _SHOWN} more" if len(revisions) > _SHOWN else ""
    return f"{hint}It has {', '.join(revisions[:_SHOWN])}{more}."


def _close(text: str, names: Iterable[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(text, list(names), n=3)


def wrong_format(canonical: str, weights: str, options: ResolveOptions) -> MdlError:
    return UsageError(
        f"{canonical} is {weights} and cannot become {options.format} on load.",
        next="Leave out --exact to use another repository, or leave out the format.",
    )


def two_formats(name: Name, options: ResolveOptions) -> UsageError:
    """The name ends in a variant, and the options ask for something else."""
    other = ":".join(filter(None, (options.format, options.variant)))
    return UsageError(
        "Ask for one format at a time.",
        why=f"given: {name.text}:{name.variant} and {other}",
        next=f"Leave out {name.variant} after the name, or {other}.",
    )


def lost_revision(canonical: str, options: ResolveOptions, repo_id: str) -> MdlError:
    return UsageError(
        f"Revision {options.revision!r} of {canonical} would be lost: in {options.format} it is"
        f" replaced by {repo_id}.",
        why="a revision belongs to the repository it was given for",
        next="Add --exact to use that revision (with --4bit it is quantized on load), or ask for"
        f" {repo_id} by name.",
    )


def no_access(
    repo_id: str, reason: str, access: str, said: str, mirrors: Sequence[str]
) -> NoAccessError:
    """Refuse a repository; `access` is the caller's state, `said` the Hub's own words."""
    page = f"Accept the terms on the page of {repo_id} on the Hub"
    if access in ("no_token", "bad_token"):
        page += ", and set HF_TOKEN to a valid token (or run `hf auth login`)"
    if mirrors:
        page += f". Ungated mirrors: {', '.join(mirrors)}"
    why = "" if said in reason else said  # where it says more
    return NoAccessError(f"{repo_id} cannot be read: {reason}.", why=why, next=page + ".")


def nothing_left(
    canonical: str, options: ResolveOptions, trace: Sequence[TraceStep], others: Sequence[str]
) -> MdlError:
    return NotFoundError(
        f"{canonical} is not available in {options.format}.",
        why=f"{counted(len(trace), 'candidate')} rejected; the last because {last_reason(trace)}",
        next=f"Other formats: {', '.join(others)}."
        if others
        else "Name the repository it was made from; --exact shows what it contains.",
    )


def no_original(
    canonical: str, weights: str, options: ResolveOptions, others: Sequence[str], *, card: bool
) -> MdlError:
    """Refuse to make one format of another; `card` is whether the repository's was read."""
    own = _TAKES.get(weights, f"--exact (use_exact_model_name=True), or --format {weights}")
    why = "neither the catalogue nor its card (base_model) names it"
    if not card:
        why = "the catalogue does not name it, and its card was not read offline"
    return NotFoundError(
        f"{canonical} has {weights} weights, which cannot become {options.format}, and the model it"
        " was quantized from is unknown.",
        why=why,
        next=f"Take the weights it has: {own}. Or ask for the original model by its own name"
        f"{', or for ' + ' or '.join(others) if others else ''}.",
    )


def last_reason(trace: Sequence[TraceStep]) -> str:
    return trace[-1].reason if trace else "nothing is known about it"


def suggest(error: MdlError, key: str, names: Iterable[str]) -> None:
    """Add the closest of `names` to an error about `key`."""
    from difflib import get_close_matches

    known = {name.lower(): name for name in names if name.lower() != key}
    close = [known[each] for each in get_close_matches(key, known, n=3, cutoff=0.75)]
    if close:
        error.next = f"Did you mean {', '.join(close)}? {error.next}"
        error.details["suggestions"] = close
