"""Refusals of stored formats, in words. Pure functions."""

from collections.abc import Mapping, Sequence

from mdl.errors import MdlError, NoAccessError, NotFoundError, OfflineError, UsageError
from mdl.resolver.refusals import not_to_be_had
from mdl.resolver.types import RepoInfo, ResolveOptions

_SHOWN = 5


def not_there(info: RepoInfo, name: str, revision: str | None = None) -> MdlError:
    if info.state == "no_revision":
        return not_to_be_had(info, name, name, revision)
    return NotFoundError(
        f"There is no repository {name} that this token can see.",
        why=info.message or "the Hub responds with 404",
        next="Check the spelling; a private repository needs a token of its owner.",
    )


def unknown_offline(name: str, asked: str) -> MdlError:
    return OfflineError(
        f"No {asked} of {name} is known here.",
        why="neither the catalogue nor the cache has one, and mdl is offline",
        next=f"Ask again with the network, or run `mdl catalog sync {name}` once.",
    )


def no_variant(
    name: str, format: str, options: ResolveOptions, missing: Mapping[str, Sequence[str]]
) -> MdlError:
    """None of the repositories has the variant asked for; `missing` says what they have."""
    every = list(dict.fromkeys(each for names in missing.values() for each in names))
    has = "; ".join(
        f"{repo} has {', '.join(names) or f'{format} weights, without variants'}"
        for repo, names in list(missing.items())[:3]
    )
    asked = f"{format}:{options.variant}" if every else f"variant {options.variant}"
    return NotFoundError(
        f"There is no {asked} of {name}.",
        why=has,
        next=f"Ask for one of: {', '.join(every)}." if every else f"Ask for {format} alone.",
        details={"variants": every},
    )


def no_projector(name: str, asked: str, there: Sequence[str]) -> MdlError:
    listed = f"Use one of: {', '.join(there)}." if there else "Leave out --mmproj."
    return NotFoundError(f"{name} has no mmproj in {asked}.", next=listed)


def untrusted(name: str, asked: str, repositories: Sequence[str]) -> MdlError:
    more = f" and {len(repositories) - _SHOWN} more" if len(repositories) > _SHOWN else ""
    return NotFoundError(
        f"No {asked} of {name} by a trusted publisher.",
        why=f"found: {', '.join(repositories[:_SHOWN])}{more}",
        next="Name one of them, or add --any-publisher to take the most downloaded one.",
        details={"untrusted": list(repositories)},
    )


def no_mirror(name: str, asked: str, formats: Sequence[str], *, online: bool) -> MdlError:
    where = "the catalogue and the Hub's model tree have" if online else "the catalogue has"
    here = f"; {name} itself is {', '.join(formats)}" if formats else ""
    return NotFoundError(
        f"{name} is not available as {asked}.",
        why=f"{where} none{here}",
        next="Name a repository that has it: `mdl catalog add NAME MIRROR` remembers it."
        if online
        else "Ask again with the network.",
    )


def lost_revision(name: str, revision: str, repo_id: str) -> MdlError:
    return UsageError(
        f"Revision {revision!r} of {name} would be lost: {repo_id} is used in its place.",
        why="a revision belongs to the repository it was given for",
        next=f"Leave out --revision, or ask for {repo_id} by name.",
    )


def no_access(repo_id: str, reason: str) -> MdlError:
    return NoAccessError(
        f"{repo_id} cannot be read: {reason}.",
        next=f"Visit the page of {repo_id} on the Hub and accept its terms, and set HF_TOKEN.",
    )


def does_not_fit(name: str, asked: str, reason: str) -> MdlError:
    return NotFoundError(
        f"No {asked} of {name} fits.",
        why=reason,
        next="Give more memory (--fit 48GB), a shorter --context, or a smaller model.",
    )


def nothing_for(name: str, runtime: str, tried: Sequence[str]) -> MdlError:
    return NotFoundError(
        f"Nothing of {name} is known that {runtime} runs on this machine.",
        why="; ".join(tried),
        next="Ask for a format by name (--format), or add --any-publisher.",
    )
