"""`mdl serve`."""

import os
from pathlib import Path
from typing import Any

import click

from mdl.cli.output import FilePath
from mdl.errors import UsageError
from mdl.settings import load_settings, parse_duration

_FILE = FilePath(dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8642,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name callers may use in the Host header; repeat it for more.",
)
@click.option(
    "--tokens-file",
    type=_FILE,
    envvar="MDL_SERVE_TOKENS_FILE",
    help="Lines of `read TOKEN` or `admin TOKEN`; read again when it changes.",
)
@click.option("--tls-cert", "certificate", type=_FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", "key", type=_FILE, help="Its private key, PEM.")
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Most connections open at once.",
)
@click.option("--hub", is_flag=True, help="Be a Hub too: for clients with HF_ENDPOINT set to it.")
@click.option(
    "--hub-allow",
    multiple=True,
    metavar="WHO",
    help="With --hub: a network (10.0.0.0/8), or a user or organisation of the Hub; repeat it.",
)
@click.option("--locked", type=_FILE, help="With --hub: serve only what this lock file names.")
@click.option("--offline", is_flag=True, help="With --hub: ask nothing upstream.")
@click.option(
    "--offline-access",
    default="0h",
    show_default=True,
    metavar="TIME",
    help="With --hub: how long known access to gated models holds without the Hub, as 24h.",
)
@click.option(
    "--hub-accel",
    default="",
    metavar="LOCATION",
    help="With --hub: where the nginx in front has the cache; it sends the files.",
)
@click.option("--no-request-log", is_flag=True, help="Do not log each request to standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def serve(
    no_request_log: bool,
    as_json: bool,
    hub: bool,
    hub_allow: tuple[str, ...],
    locked: Path | None,
    offline: bool,
    offline_access: str,
    hub_accel: str,
    **options: Any,
) -> None:
    """Resolve names and show the cache over HTTP, with a page at /.

    On loopback no token is needed to read. Any other address needs tokens, from --tokens-file
    or MDL_SERVE_TOKENS (`read TOKEN;admin TOKEN`).
    """
    from mdl.service import ServiceConfig
    from mdl.service import serve as run

    config = ServiceConfig(
        **options,
        hub=_hub_config(hub, hub_allow, locked, offline, offline_access, hub_accel),
        tokens=os.environ.get("MDL_SERVE_TOKENS", ""),
        log_requests=not no_request_log,
    )
    run(load_settings(), config, as_json=as_json)


def _hub_config(
    hub: bool,
    allow: tuple[str, ...],
    locked: Path | None,
    offline: bool,
    offline_access: str,
    accel: str,
) -> Any:
    """The Hub's side; `None` without --hub.

    Raises:
        UsageError: one of its options stands alone, or is not a duration.
    """
    from mdl.hub_server import HubConfig

    seconds = parse_duration(offline_access)
    if hub:
        return HubConfig(allow, locked, offline, seconds, accel)
    if allow or locked or offline or seconds or accel:
        raise UsageError("These options are for --hub.", next="Add --hub, or leave the others out.")
    return None
