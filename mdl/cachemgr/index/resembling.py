"""Names in the cache that resemble one that is not there."""

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Advice that names up to three resembling repositories; `otherwise` where none does.

    The name behind the slash alone counts too: `Llama-3` finds `meta-llama/Llama-3`.
    """
    from difflib import get_close_matches

    choices: dict[str, str] = {}
    for each in known:
        choices.setdefault(each.casefold(), each)
        choices.setdefault(each.casefold().rpartition("/")[2], each)
    close = get_close_matches(name.casefold(), choices, n=3, cutoff=0.7)
    if not close:
        close = get_close_matches(name.casefold().rpartition("/")[2], choices, n=3, cutoff=0.7)
    found = list(dict.fromkeys(choices[each] for each in close))
    return f"Did you mean {' or '.join(found)}? {otherwise}" if found else otherwise
