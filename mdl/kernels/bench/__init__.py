"""The measurement of all kernels on a GPU: `python -m benchmarks.gpu`, `mdl kernels bench`."""
