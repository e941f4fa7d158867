"""`mdl serve`."""

import os
from pathlib import Path
from typing import Any

import click

from mdl.cli.output import FilePath
from mdl.settings import load_settings

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
    help="Open at once.",
)
@click.option("--no-request-log", is_flag=True, help="No JSON line a request on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one JSON object.")
def serve(no_request_log: bool, as_json: bool, **options: Any) -> None:
    """Answer names and show the cache over HTTP, with a page at /.

    On loopback no token is needed to read. Any other address needs tokens, from --tokens-file
    or MDL_SERVE_TOKENS (`read TOKEN;admin TOKEN`).
    """
    from mdl.service import ServiceConfig
    from mdl.service import serve as run

    config = ServiceConfig(
        **options,
        tokens=os.environ.get("MDL_SERVE_TOKENS", ""),
        log_requests=not no_request_log,
    )
    run(load_settings(), config, as_json=as_json)
