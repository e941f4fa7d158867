"""The measurement of all kernels on a GPU: `python -m benchmarks.gpu`, `mdl kernels bench`."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.bench.main import measure_here
    from mdl.kernels.bench.timing import Clock

__getattr__ = door(__name__, {"main": "measure_here", "timing": "Clock"})
