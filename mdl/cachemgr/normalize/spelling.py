"""How the Hub itself spells a repository's name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mdl.cachemgr.layout import repo_key
from mdl.hub_http import http_library

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache

# (repo_type, one of the spellings) → the Hub's spelling, or None where it is not known.
Canonical = Callable[[str, str], str | None]


def hub_spelling(cache: "Cache") -> Canonical:
    """Look a spelling up in the index, then (unless offline) on the Hub, and remember it."""
    known = cache.index.canonical()
    silent = cache.settings.offline

    def ask(repo_type: str, repo_id: str) -> str | None:
        nonlocal silent
        key = repo_key(repo_type, repo_id)
        if key in known or silent:
            return known.get(key)
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            api = HfApi(endpoint=cache.settings.endpoint, token=cache.settings.token or False)
            info = api.repo_info(repo_id, repo_type=repo_type, timeout=cache.settings.hub_timeout)
        except (HfHubHTTPError, ValueError):
            return None
        except (OfflineModeIsEnabled, http_library().TransportError, OSError):
            silent = True  # asking for the others would take as long, in vain
            return None
        cache.index.put_canonical(key, info.id)
        known[key] = info.id
        return str(info.id)

    return ask
