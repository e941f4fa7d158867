"""`mdl daemon`: run, start, stop, restart, status, logs, install, uninstall."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from mdl.cli.output import confirm, echo_json, yes_option
from mdl.errors import NotFoundError, UsageError
from mdl.formatting import counted, human_ago, human_size
from mdl.settings import Settings, load_settings

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def daemon() -> None:
    """Run a process that maintains the cache: index, casings, size budget, recorded use."""
    if sys.platform == "win32":
        raise UsageError(
            "The daemon does not run on Windows.",
            next="Use `mdl cache prune` and `mdl cache normalize` instead.",
        )


def _place() -> Settings:
    """Settings from the environment alone: a broken configuration must not hide the daemon."""
    return load_settings({**os.environ, "MDL_CONFIG": os.devnull})


@daemon.command()
@_json
def run(as_json: bool) -> None:
    """Run in the foreground, until SIGTERM or Ctrl-C."""
    from mdl.cachemgr.daemon import run_daemon

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("mdl.daemon").setLevel(logging.INFO)
    run_daemon(load_settings(), as_json=as_json)


@daemon.command()
@_json
def start(as_json: bool) -> None:
    """Start the daemon in the background."""
    from mdl.cachemgr.daemon import start_daemon

    found = start_daemon(load_settings())
    if as_json:
        echo_json({"running": True, **found})
    else:
        click.echo(f"started process {found['pid']} for {found['root']} ({found['mode']})")


@daemon.command()
@_json
def stop(as_json: bool) -> None:
    """Stop the daemon."""
    from mdl.cachemgr.daemon import stop_daemon

    pid = stop_daemon(_place())
    if as_json:
        echo_json({"stopped": pid})
    else:
        click.echo(f"stopped process {pid}")


@daemon.command()
@_json
def restart(as_json: bool) -> None:
    """Stop the daemon if it runs, and start it in the background."""
    from mdl.cachemgr.daemon import start_daemon, stop_daemon

    with contextlib.suppress(NotFoundError):
        stop_daemon(_place())
    found = start_daemon(load_settings())
    if as_json:
        echo_json({"running": True, **found})
    else:
        click.echo(f"restarted as process {found['pid']} for {found['root']} ({found['mode']})")


@daemon.command()
@click.option("-n", "--lines", type=click.IntRange(min=1), default=50, show_default=True,
              help="So many of the last lines.")  # fmt: skip
@_json
def logs(lines: int, as_json: bool) -> None:
    """Print the last lines that the daemon logged."""
    from mdl.cachemgr.daemon import read_log

    found = read_log(_place(), lines)
    if as_json:
        echo_json({"lines": found})
    else:
        click.echo("\n".join(found))


@daemon.command()
@_json
def status(as_json: bool) -> int:
    """Show whether the daemon runs, how it notices changes, and what it has done.

    Exit code 3 when none is running.
    """
    from mdl.cachemgr.daemon import daemon_status

    found = daemon_status(_place())
    if as_json:
        echo_json(found)
    else:
        _print(found)
    return 0 if found["running"] else 3


def _print(found: dict[str, Any]) -> None:
    if not found["running"]:
        click.echo(f"no daemon is running for {found['root']}")
        return
    elsewhere = found["home"] != os.fspath(_place().home)
    home = f", with MDL_HOME={found['home']}" if elsewhere else ""
    click.echo(f"process {found['pid']} is running for {found['root']}{home}")
    if "mode" not in found:
        click.echo(f"  error     {found['last_error']}")
        return
    why = f" ({found['why']})" if found["why"] else ""
    lines = [
        ("started", human_ago(found["started"])),
        ("mode", f"{found['mode']}{why}"),
        ("cache", f"{counted(found['repos'], 'repository')}, {human_size(found['size_on_disk'])}"),
        ("budget", _budget(found)),
        ("changed", human_ago(found["last_change"])),
        ("pruned", human_ago(found["last_prune"])),
        ("trash", f"{human_size(found['trash'])}, erased after {found['trash_days']:g} days"),
        ("log", found["log"] or "that of whoever started it"),
        ("casings", found["normalize"]),
    ]
    if found["restored"]:
        lines.append(("restored", f"{counted(found['restored'], 'revision')} left alone"
                      f" for {found['undo_days']:g} days after undo (undo_days)"))  # fmt: skip
    done = found["done"]
    lines.append(
        ("done", f"{done['normalized']} normalized, {done['pruned']} pruned,"
         f" {human_size(done['freed'])} freed, {done['uses']} uses recorded")
    )  # fmt: skip
    for key in ("last_error", "config_error"):
        if found[key]:
            lines.append(("error", found[key]))
    for key, value in lines:
        click.echo(f"  {key:<10}" + "\n            ".join(map(str.strip, value.splitlines())))


def _budget(found: dict[str, Any]) -> str:
    parts = []
    if found["max_size"] is not None:
        parts.append(f"at most {human_size(found['max_size'])}")
    if found["keep_free"] is not None:
        parts.append(f"{human_size(found['keep_free'])} kept free")
    if found["unused_for"] is not None:
        parts.append(f"removed when unused for {found['unused_for'] / 86400:g} days")
    if found["short"]:
        parts.append(f"short by {human_size(found['short'])}: the rest is protected")
    return ", ".join(parts) or "none set"


@daemon.command()
@click.option("--launchd/--systemd", default=sys.platform == "darwin", help="The service manager.")
@click.option("--dry-run", "--print", "dry_run", is_flag=True, help="Print it, write nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before replacing one.")
@_json
def install(launchd: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Write a systemd user unit, or a launchd agent, that runs the daemon."""
    from mdl.cachemgr.daemon import launchd_agent, place_of, systemd_unit

    settings = load_settings()
    text = launchd_agent(settings) if launchd else systemd_unit(settings)
    place = place_of("launchd" if launchd else "systemd", Path.home())
    if launchd:
        then = f"launchctl load -w {place}"
    else:
        then = f"systemctl --user daemon-reload && systemctl --user enable --now {place.name}"
    if not dry_run:
        _write_unit(place, text, yes=yes)
    if as_json:
        echo_json({"path": str(place), "text": text, "written": not dry_run, "next": then})
    elif dry_run:
        click.echo(text, nl=False)
    else:
        click.echo(f"wrote {place}\nnext: {then}")


@daemon.command()
@click.option("--launchd/--systemd", default=sys.platform == "darwin", help="The service manager.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, remove nothing.")
@yes_option
@_json
def uninstall(launchd: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove the unit that `mdl daemon install` wrote. A running daemon goes on."""
    from mdl.cachemgr.daemon import place_of

    place = place_of("launchd" if launchd else "systemd", Path.home())
    if not os.path.lexists(place):
        raise NotFoundError(f"{place} does not exist.", next="There is nothing to uninstall.")
    # The link that `systemctl enable` made, so that nothing points to a file that is gone.
    links = [link for link in place.parent.glob(f"*.wants/{place.name}") if link.is_symlink()]
    found = [str(path) for path in (place, *links)]
    then = "launchctl remove " + place.stem if launchd else "systemctl --user daemon-reload"
    if not dry_run:
        confirm(f"Remove {' and '.join(found)}?", yes=yes)
        for path in found:
            Path(path).unlink()
    if as_json:
        echo_json({"removed": found, "dry_run": dry_run, "next": then})
    else:
        click.echo("\n".join(f"{'would remove' if dry_run else 'removed'} {p}" for p in found))
        click.echo(f"next: mdl daemon stop; {then}")


def _write_unit(place: Path, text: str, *, yes: bool) -> None:
    if place.exists() and place.read_text() != text:
        confirm(f"Replace {place}?", yes=yes)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
