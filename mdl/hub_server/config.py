"""How the Hub's side of the service is configured."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from mdl.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class HubConfig:
    """Durations in seconds.

    Attributes:
        allow: who may use it beside this machine: networks (`10.0.0.0/8`), and users or
            organisations of the Hub, known by the token that clients send.
        locked: a lock file; only what it names is served.
        offline: ask nothing upstream.
        offline_access: for how long a caller's access, once known, holds without the Hub.
        accel: a location of the nginx in front, below which it has the cache: it is told which
            file to send (X-Accel-Redirect). Empty without one.
    """

    allow: tuple[str, ...] = ()
    locked: Path | None = None
    offline: bool = False
    offline_access: float = 0.0
    accel: str = ""

    @property
    def networks(self) -> tuple[Network, ...]:
        return tuple(net for entry in self.allow if (net := _network(entry)) is not None)

    @property
    def accounts(self) -> frozenset[str]:
        """Users and organisations, in lower case."""
        return frozenset(entry.lower() for entry in self.allow if _network(entry) is None)

    def check(self, *, on_loopback: bool) -> None:
        """Refuse to serve everyone.

        Raises:
            ConfigError: other machines can reach the address, and nobody is allowed.
        """
        if not on_loopback and not self.allow:
            raise ConfigError(
                "Serving the Hub to other machines needs to know to whom.",
                why="whoever reaches the port could download through this machine",
                next="Give --hub-allow with a network (10.0.0.0/8), or a user or organisation "
                "of the Hub; repeat it for more.",
            )


def _network(entry: str) -> Network | None:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        return None
