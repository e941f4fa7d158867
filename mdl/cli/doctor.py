"""`mdl doctor`: check this machine, and say what to do about problems."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from mdl.cli.output import echo_json
from mdl.errors import MdlError
from mdl.formatting import counted, human_size, styled
from mdl.settings import Settings, load_settings
from mdl.version import install_command, installed_versions

_LIBRARIES = (
    ("huggingface_hub", "1.33", "core"),
    ("sqlalchemy", "2.0.40", "core"),
    ("torch", "2.11", "load"),
    ("transformers", "5.21", "load"),
    ("bitsandbytes", "0.49.2", "load"),
    ("triton", "3.6", "kernels"),
)


_EXTRAS = "Install one of mdl's extras: load, kernels, service, postgres."


_MARKS = {"ok": ("✓", "good"), "note": ("·", ""), "problem": ("✗", "bad")}


class Finding(NamedTuple):
    """One check: its state is `ok`, `note` (nothing to do) or `problem`."""

    what: str
    state: str
    found: str
    next: str = ""


@click.command()
@click.option("--offline", is_flag=True, help="Do not ask the Hub.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(offline: bool, as_json: bool) -> int:
    """Check this machine's settings, database, cache, Hub, token, libraries and GPU."""
    settings = load_settings()
    checks = list(_checks(settings, offline or settings.offline))
    wrong = [check for check in checks if check.state == "problem"]
    body = {"checks": [check._asdict() for check in checks]}
    if as_json and wrong:
        raise MdlError(
            f"{len(wrong)} of {counted(len(checks), 'check')} found a problem.",
            why="; ".join(f"{check.what}: {check.found}" for check in wrong),
            next="Each of `checks` has its own `next`.",
            details=body,
        )
    if as_json:
        echo_json(body)
    else:
        for check in checks:
            mark, style = _MARKS[check.state]
            click.echo(f"{styled(mark, style)} {check.what:<16}{check.found}")
            if check.next:
                click.echo(f"  {'':<16}{check.next}")
    return MdlError.exit_code if wrong else 0


def _checks(settings: Settings, offline: bool) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} on {sys.platform}")
    for look in (_database, _cache, _disk):
        yield _guarded(look, settings)
    yield _token(settings)
    yield Finding("Hub", "note", "not checked") if offline else _guarded(_hub, settings)
    yield from _libraries()
    yield _gpu()


def _guarded(look: Callable[[Settings], Finding], settings: Settings) -> Finding:
    name = "Hub" if look is _hub else look.__name__.lstrip("_")
    try:
        return look(settings)
    except MdlError as error:
        why = f" ({error.why})" if error.why else ""
        return Finding(name, "problem", f"{error.message}{why}", error.next)
    except ModuleNotFoundError as error:
        return Finding(name, "problem", f"needs {error.name}, which is not installed", _EXTRAS)
    except OSError as error:
        return Finding(name, "problem", str(error), "Check the path and its permissions.")


def _database(settings: Settings) -> Finding:
    from mdl.store import open_catalog

    catalog = open_catalog(settings)
    rows = sum(source["rows"] for source in catalog.sources())
    where = catalog.database.where
    catalog.database.close()
    if not catalog.database.writable:
        return Finding(
            "database", "problem", f"{where} is read-only", "Resolutions are not recorded."
        )
    return Finding("database", "ok", f"{where}, {rows} mirrors")


def _cache(settings: Settings) -> Finding:
    from mdl.cachemgr import open_cache

    root = Path(settings.cache_root)
    if not root.is_dir():
        return Finding("cache", "note", f"{root} does not exist yet")
    repos = open_cache(settings).list()
    broken = [repo.repo_id for repo in repos if repo.problems]
    twice = [repo.repo_id for repo in repos if len(repo.spellings) > 1]
    found = f"{root}, {counted(len(repos), 'repository')}"
    if broken:
        return Finding("cache", "problem", f"{found}, {len(broken)} with problems", "mdl cache ls")
    if twice:
        hint = "`mdl cache normalize --dry-run` shows how much sharing would free."
        return Finding("cache", "note", f"{found}, {len(twice)} under several spellings", hint)
    return Finding("cache", "ok", found)


def _disk(settings: Settings) -> Finding:
    import shutil

    from mdl.loader import nearest_existing

    usage = shutil.disk_usage(nearest_existing(settings.cache_root))
    found = f"{human_size(usage.free)} free of {human_size(usage.total)}"
    if usage.free < 10 * 10**9:
        return Finding(
            "disk", "problem", found, "`mdl cache prune --dry-run` shows what can be removed."
        )
    return Finding("disk", "ok", found)


def _token(settings: Settings) -> Finding:
    if settings.stored_token is not None:
        why = "HF_HUB_DISABLE_IMPLICIT_TOKEN is set; token=True in Python still uses it."
        return Finding("token", "note", "one is here and is not sent", why)
    if settings.token is None:
        return Finding("token", "note", "none", "Gated repositories need one: `hf auth login`.")
    source = "HF_TOKEN" if os.environ.get("HF_TOKEN", "").strip() else "a file"
    return Finding("token", "ok", f"from {source}")


def _hub(settings: Settings) -> Finding:
    from mdl.resolver import HubApi

    hub = HubApi(settings.endpoint, settings.token, settings.hub_timeout)
    name = hub.whoami()
    if hub.bad_token:
        hint = "Public repositories still work; `hf auth login` stores a new one."
        return Finding("Hub", "problem", f"{settings.endpoint} does not accept the token", hint)
    return Finding("Hub", "ok", f"{settings.endpoint}, as {name or 'nobody (no token)'}")


def _libraries() -> Iterator[Finding]:
    from packaging.version import Version

    versions = installed_versions(*(name for name, _, _ in _LIBRARIES))
    for name, floor, extra in _LIBRARIES:
        found = versions.get(name)
        if found is None:
            state = "problem" if extra == "core" else "note"
            hint = f"pip install {name}" if extra == "core" else install_command(extra)
            yield Finding(name, state, "not installed", hint)
        elif Version(found) < Version(floor):
            yield Finding(name, "problem", f"{found}, older than {floor}", f"pip install -U {name}")
        else:
            yield Finding(name, "ok", found)


def _gpu() -> Finding:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return Finding("GPU", "note", "torch is not installed")
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "note", "no CUDA device: the kernels' torch references are used")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names))
