"""Doors of packages: names that are imported when they are first used (PEP 562).

A package's `__init__` lists what others may use of it. Listing costs nothing, so that a command
imports only the modules it needs.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def door(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that imports what it lists.

    Args:
        package: the package's `__name__`.
        home: module of the package → the names it defines, separated by blanks.
    """
    module_of = {name: module for module, names in home.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return __getattr__
