"""mdl's version, those of the libraries it works with, and how to install more of them."""

import functools

__version__ = "0.2.0"


@functools.cache
def installed_versions(*names: str) -> dict[str, str]:
    """The versions of those of the packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def install_command(extra: str) -> str:
    """The pip command that installs an extra of mdl from where mdl itself was installed.

    Without a source that still exists it names the extra's packages. Never `mdl[extra]` alone: on
    a package index that name may be another's.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        mdl = distribution("mdl")
    except PackageNotFoundError:
        source, requirements = _checkout(), []
    else:
        source = _source(mdl.read_text("direct_url.json")) or _checkout()
        requirements = mdl.requires or []
    if source:
        return f"pip install {source.replace('*', f'[{extra}]')}"
    packages = [
        f'"{name.strip()}"'
        for name, _, marker in (text.partition(";") for text in requirements)
        if f"extra == '{extra}'" in marker.replace('"', "'")
    ]
    return f"pip install {' '.join(packages)}" if packages else "pip install the missing packages"


def _source(direct_url: str | None) -> str | None:
    """What pip takes to install from the same place (PEP 610); `*` stands for the extra."""
    import json
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    if direct_url is None:
        return None
    body = json.loads(direct_url)
    url = body["url"]
    if "vcs_info" in body:
        info = body["vcs_info"]
        return f'"mdl* @ {info["vcs"]}+{url}@{info["commit_id"]}"'
    if not url.startswith("file:"):
        return f'"mdl* @ {url}"'
    path = unquote(urlsplit(url).path)
    editable = "-e " if body.get("dir_info", {}).get("editable") else ""
    return f'{editable}"{path}*"' if Path(path).exists() else None


def _checkout() -> str | None:
    from pathlib import Path

    folder = Path(__file__).resolve().parents[1]
    return f'-e "{folder}*"' if (folder / "pyproject.toml").exists() else None
