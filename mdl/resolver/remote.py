"""Resolving through a service (MDL_SERVER) instead of locally.

The service knows the catalogue and the Hub; this machine's cache and local copies are added to its
responses here. Standard library only, because `mdl resolve` imports this.
"""

import http.client
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from mdl.errors import BusyError, ConfigError, MdlError, UsageError, error_from_json
from mdl.resolver.names import parse_name
from mdl.resolver.resolver import Resolver
from mdl.resolver.stored import with_cached_files
from mdl.resolver.types import Access, CacheView, Resolution, ResolveOptions
from mdl.settings import Settings, is_loopback
from mdl.store import USER

log = logging.getLogger("mdl")

_TIMEOUT = 3.0
_BULK = 200
_LARGEST = 64 << 20


class Unreachable(Exception):
    """The service gave no usable response; does not leave this module."""


class RemoteClient:
    """One service, one connection.

    Args:
        url: `http://host:port` or `https://host:port`.
        token: the service's own token, or `None`.
        hub_token: the caller's Hub token; sent only over TLS or to this machine.

    Raises:
        ConfigError: the URL is not valid.
    """

    def __init__(self, url: str, token: str | None, hub_token: str | None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(
                f"MDL_SERVER is not a valid URL: {url!r}.",
                next="Write http://host:port or https://host:port, or unset it.",
            )
        kind = http.client.HTTPSConnection if parts.scheme == "https" else (
            http.client.HTTPConnection
        )  # fmt: skip
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.sends_hub_token = parts.scheme == "https" or is_loopback(parts.hostname)
        self._path = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, port, timeout=_TIMEOUT)
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        if hub_token and self.sends_hub_token:
            self._headers["X-Hub-Token"] = hub_token

    def resolve(self, name: str, options: ResolveOptions) -> dict[str, Any]:
        query = {"name": name, **_fields(options)}
        return self._ask("GET", f"/v1/resolve?{urlencode(query, quote_via=quote)}")

    def resolve_many(self, names: list[str], options: ResolveOptions) -> list[dict[str, Any]]:
        body = {"names": names, **_fields(options)}
        answers: list[dict[str, Any]] = self._ask("POST", "/v1/resolve", body)["answers"]
        return answers

    def access(self, name: str) -> dict[str, Any]:
        return self._ask("GET", f"/v1/access?{urlencode({'name': name}, quote_via=quote)}")

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            content = self._send(method, self._path + target, data, headers)
            found = json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        if not isinstance(found, dict):
            raise Unreachable("its response is not a JSON object")
        return found

    def _send(self, method: str, target: str, data: bytes | None, headers: dict[str, str]) -> bytes:
        had_connection = self._connection.sock is not None
        try:
            self._connection.request(method, target, data, headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            # A kept-alive connection may have been closed meanwhile: try once more with a new one.
            if not had_connection:
                raise
            self._connection.close()
            self._connection.request(method, target, data, headers)
            response = self._connection.getresponse()
        content = response.read(_LARGEST)
        if response.status in (401, 421) or response.status >= 500:
            try:
                message = json.loads(content)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = response.reason
            raise Unreachable(f"{response.status}: {message}")
        return content


class RemoteResolver(Resolver):
    """A resolver that asks a service first, and resolves locally if that does not respond.

    Always local are folders, offline requests, `prefer="cached"`, names with rows of your own, and
    gated repositories if the Hub token must not be sent to the service.
    """

    def __init__(
        self, settings: Settings, cached: CacheView, *, token: str | bool | None = None
    ) -> None:
        super().__init__(settings, cached, token=token)
        self._here = cached
        self._client = RemoteClient(str(settings.server), settings.server_token, self._token)
        self._unreachable = False

    def close(self) -> None:
        self._client.close()
        super().close()

    def resolve(self, text: str, options: ResolveOptions | None = None) -> Resolution:
        options = options or ResolveOptions(prefer=self.settings.prefer)
        if not self._is_for_server(text, options):
            return super().resolve(text, options)
        try:
            return self._local_view(self._read(self._client.resolve(text.strip(), options)))
        except Unreachable as error:
            self._fall_back(error)
        except _NeedsToken:
            pass
        return super().resolve(text, options)

    def resolve_many(
        self, names: Iterable[str], options: ResolveOptions | None = None
    ) -> Iterator[Resolution | MdlError]:
        options = options or ResolveOptions(prefer=self.settings.prefer)
        listed = list(names)
        for start in range(0, len(listed), _BULK):
            chunk = listed[start : start + _BULK]
            found = self._bulk(chunk, options)
            for text in chunk:
                try:
                    yield found.get(text) or super().resolve(text, options)
                except MdlError as error:
                    error.details.setdefault("requested", text)
                    yield error

    def access(self, text: str) -> Access:
        if self.settings.offline or self._unreachable or not self._client.sends_hub_token:
            return super().access(text)
        parse_name(text)
        try:
            body = self._client.access(text.strip())
            if "error" in body:
                raise error_from_json(body["error"])
            return Access.from_json(body)
        except Unreachable as error:
            self._fall_back(error)
        except (KeyError, TypeError) as error:
            self._fall_back(Unreachable(f"its response lacks {error}"))
        return super().access(text)

    def _bulk(self, chunk: list[str], options: ResolveOptions) -> dict[str, Resolution | MdlError]:
        """The service's responses by name; names without one are resolved locally."""
        asked = [text for text in chunk if self._may_be_asked(text, options)]
        found: dict[str, Resolution | MdlError] = {}
        if not asked:
            return found
        try:
            names = [text.strip() for text in asked]
            bodies = self._client.resolve_many(names, options)
            for text, body in zip(asked, bodies, strict=True):
                try:
                    found[text] = self._local_view(self._read(body))
                except _NeedsToken:
                    continue
                except MdlError as error:
                    error.details.setdefault("requested", text)
                    found[text] = error
        except (Unreachable, ValueError, KeyError) as error:
            self._fall_back(error)
        return found

    def _may_be_asked(self, text: str, options: ResolveOptions) -> bool:
        try:
            return self._is_for_server(text, options)
        except MdlError:
            return False  # refused locally, with the reason

    def _is_for_server(self, text: str, options: ResolveOptions) -> bool:
        if self.settings.offline or self._unreachable or options.prefer == "cached":
            return False
        if options.runtime is not None or options.fit == "auto":
            return False  # of this machine, not of the service's
        name = parse_name(text, allow_variant=True)
        if name.path is not None:
            return False
        known = self.catalog.about(name.key)
        return all(row.source != USER for row, _, _ in known.mirrors)

    def _read(self, body: dict[str, Any]) -> Resolution:
        if "error" in body and "trace" not in body:
            error = error_from_json(body["error"])
            if isinstance(error, (BusyError, UsageError)):
                raise error
            error.details["requested"] = body.get("requested", "")
            raise error
        try:
            return Resolution.from_json(body)
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable(f"its response cannot be read ({error!r})") from error

    def _local_view(self, resolution: Resolution) -> Resolution:
        """The service's resolution with this machine's cache and local copies."""
        withheld = self._token is not None and not self._client.sends_hub_token
        undecided = resolution.access in ("no_token", "unknown") and resolution.gated is not False
        if withheld and undecided:
            raise _NeedsToken
        cached = self._here(resolution.repo_id, resolution.commit or resolution.revision)
        local: tuple[dict[str, Any], ...] = ()
        if resolution.quantize_on_load:
            rows = self.catalog.about(resolution.repo_id.lower()).local
            local = tuple(row._asdict() for row in rows)
        resolution = resolution._replace(cached=cached, local_mirrors=local)
        return resolution if resolution.files is None else with_cached_files(resolution)

    def _fall_back(self, error: Exception) -> None:
        """Warn once; the rest of this process resolves locally."""
        self._unreachable = True
        log.warning(
            "The service %s does not respond (%s). Resolving locally.", self._client.url, error
        )


class _NeedsToken(Exception):
    """The result depends on a Hub token that must not be sent over plain HTTP."""


def _fields(options: ResolveOptions) -> dict[str, Any]:
    """The options as query or body fields; other defaults are left out."""
    unset = ResolveOptions()._asdict()
    changed = {key: each for key, each in options._asdict().items() if each != unset[key]}
    changed |= {key: "true" for key, value in changed.items() if value is True}
    return {"format": options.format, "prefer": options.prefer, **changed}
