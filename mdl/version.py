"""mdl's version, and those of the libraries it works with."""

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
