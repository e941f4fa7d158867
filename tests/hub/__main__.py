"""Serve folders as a Hub: `python -m tests.hub --port-file F --repo Org/Name=FOLDER …`.

The endpoint's address is written to the port file once it answers; SIGTERM or SIGINT stops it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from tests.hub.hub import LoopbackHub

T = TypeVar("T")


def pairs(values: tuple[str, ...], option: str, convert: Callable[[str], T]) -> dict[str, T]:
    """`KEY=VALUE` options as a dict."""
    found = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", param_hint=option)
        found[key] = convert(rest)
    return found


@click.command()
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the endpoint URL here.")
@click.option("--port", default=0, help="Port to listen on (default: any free one).")
@click.option("--repo", "repos", multiple=True, help="Serve a folder: ORG/NAME=FOLDER.")
@click.option("--gated", multiple=True, help="Gate a repository: ORG/NAME=auto|manual.")
@click.option("--card", "cards", multiple=True, help="Set a model card: ORG/NAME=JSON.")
@click.option("--user", "users", multiple=True, help="Know a user: TOKEN=NAME.")
@click.option("--grant", "grants", multiple=True, help="Grant access: TOKEN=ORG/NAME.")
def serve(
    port_file: Path | None,
    port: int,
    repos: tuple[str, ...],
    gated: tuple[str, ...],
    cards: tuple[str, ...],
    users: tuple[str, ...],
    grants: tuple[str, ...],
) -> None:
    """Serve a loopback Hub until told to stop."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    gates, texts = pairs(gated, "--gated", str), pairs(cards, "--card", json.loads)
    with LoopbackHub(port) as hub:
        for token, name in pairs(users, "--user", str).items():
            hub.add_user(token, name)
        for repo_id, folder in pairs(repos, "--repo", Path).items():
            gate = gates.get(repo_id, False)
            hub.add_repo(repo_id, folder=folder, gated=gate, card=texts.get(repo_id))
        for grant in grants:
            token, _, repo_id = grant.partition("=")
            hub.set_access(repo_id, token, "granted")
        click.echo(hub.endpoint)
        sys.stdout.flush()
        if port_file is not None:
            unfinished = port_file.with_suffix(".new")
            unfinished.write_text(hub.endpoint)
            unfinished.replace(port_file)
        stop.wait()


if __name__ == "__main__":
    serve()
