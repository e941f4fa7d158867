"""Ahead-of-time compilation of every kernel and configuration, and what each one costs."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.compiled.variants import compile_all

__getattr__ = door(__name__, {"variants": "compile_all"})
