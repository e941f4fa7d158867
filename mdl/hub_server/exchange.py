"""One request's channels: what is read of a client, and how answers are sent to it."""

from typing import Any, NamedTuple

from starlette.types import Receive, Send

from mdl.hub_server.responses import Headers, HubRefusal

_LARGEST_BODY = 1 << 20


class Exchange(NamedTuple):
    """One request's channels, and what its log line says besides."""

    receive: Receive
    send: Send
    logged: dict[str, Any]


async def hung_up(receive: Receive) -> None:
    """Return when the client is gone: uvicorn takes what is sent to it all the same."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LARGEST_BODY:
            raise HubRefusal(413, "The body is too large.")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    if not any(name.lower() == "content-length" for name, _ in headers) and status != 304:
        headers = [*headers, ("content-length", str(len(body)))]
    await send(response_head(status, headers))
    await send({"type": "http.response.body", "body": body})


def response_head(status: int, headers: Headers) -> dict[str, Any]:
    encoded = [(k.lower().encode("latin-1"), _clean(v).encode("latin-1", "replace"))
               for k, v in headers]  # fmt: skip
    return {"type": "http.response.start", "status": status, "headers": encoded}


def _clean(value: str) -> str:
    """A header's value without control characters, which uvicorn refuses to send."""
    return value if value.isprintable() else "".join(c for c in value if c.isprintable())
