"""From a name and a wish to an answer with its reasons.

`Resolver` gathers (database, Hub, the cache view it is handed), `policy.decide` decides.
"""

from typing import TYPE_CHECKING, Any

from mdl.resolver.types import Cached, CacheView, Facts, Resolution, Step, Wish

if TYPE_CHECKING:
    from mdl.resolver.session import Resolver

__all__ = ["CacheView", "Cached", "Facts", "Resolution", "Resolver", "Step", "Wish"]


def __getattr__(name: str) -> Any:
    if name == "Resolver":
        from mdl.resolver.session import Resolver

        return Resolver
    raise AttributeError(f"module 'mdl.resolver' has no attribute {name!r}")
