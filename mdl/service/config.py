"""How `mdl serve` is configured: its address, its limits, and who may call it."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from mdl.errors import ConfigError
from mdl.hub_server import HubConfig
from mdl.settings import is_loopback

DEFAULT_PORT = 8642
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class ServiceConfig:
    """Sizes in bytes, durations in seconds.

    Attributes:
        host: the address to listen on; anything but loopback needs tokens.
        hosts: further names that callers may use in the Host header; `*` allows any.
        tokens_file: lines of `ROLE TOKEN`, read again when the file changes.
        tokens: the same lines, from the environment.
        max_body: the largest request body.
        max_headers: the largest request head.
        max_connections: open connections; further ones get 503.
        max_waiting: requests that may wait for a thread.
        threads: how many ask the Hub and the database.
        head_seconds: how long a client may take to send a request's head.
        body_seconds: how long a body may take to arrive.
        request_seconds: how long a request may take.
        read_seconds: how long a client may take to read 64 KiB of a response.
        idle_seconds: how long a connection without a request is kept.
        log_requests: one JSON line a request on standard error.
        hub: serve the Hub's routes too; `None` leaves them out.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = ()
    tokens_file: Path | None = None
    tokens: str = ""
    certificate: Path | None = None
    key: Path | None = None
    max_body: int = 1 << 20
    max_headers: int = 16 << 10
    max_connections: int = 1000
    max_waiting: int = 256
    threads: int = 16
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    request_seconds: float = 30.0
    read_seconds: float = 10.0
    idle_seconds: int = 30
    log_requests: bool = True
    hub: HubConfig | None = None

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def host_names(self) -> frozenset[str]:
        """What a Host header may say, without its port, in lower case."""
        names = {name.lower() for name in self.hosts}
        if self.on_loopback:
            names.update(_LOOPBACK_NAMES)
        elif not _is_any(self.host):
            names.add(f"[{self.host}]" if ":" in self.host else self.host.lower())
        return frozenset(names)

    def check(self, *, has_tokens: bool) -> None:
        """Refuse to be open to everyone.

        Raises:
            ConfigError: an address other than loopback has no tokens or no host names; the
                certificate or key cannot be used.
        """
        if not self.on_loopback and not has_tokens:
            raise ConfigError(
                f"Listening on {self.host} needs tokens.",
                why="without them, everyone who reaches the port could read and change the cache",
                next="Give --tokens-file FILE or MDL_SERVE_TOKENS, or listen on 127.0.0.1.",
            )
        if self.hub is not None:
            self.hub.check(on_loopback=self.on_loopback)
        if not self.host_names:
            raise ConfigError(
                f"Listening on {self.host} needs the host names that callers use.",
                why="the Host header is checked, so that no web site can point its own name here",
                next="Give --allow-host NAME (as often as needed), or --allow-host '*'.",
            )
        if (self.certificate is None) != (self.key is None):
            raise ConfigError(
                "TLS needs both --tls-cert and --tls-key.", next="Give the missing one."
            )
        if self.certificate is not None:
            self._check_certificate()

    def _check_certificate(self) -> None:
        """Early, because uvicorn would read them after the address is announced."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                str(self.certificate), self.key, password=""
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.certificate} and {self.key} cannot be used for TLS.",
                why=getattr(error, "strerror", None) or str(error),
                next="Give a PEM certificate chain and its private key, without a passphrase.",
            ) from error


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return not host
