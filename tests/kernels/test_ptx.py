"""What Triton compiles, run instruction by instruction without a GPU: see `ptx_emulator`.

A process for each target, because the emulated GPU takes the place of Triton's driver.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HERE = Path(__file__).parent
EVERY = [*sorted((HERE / "interpreted").glob("check_*.py")), HERE / "test_edges.py"]
PRODUCTS = [HERE / "interpreted" / "check_linear4bit.py"]
EMULATOR = sorted((HERE.parent / "ptx_emulator").glob("check_*.py"))
KERNELS = {
    "cross_entropy_backward", "cross_entropy_forward", "dequantize_4bit", "gemm_4bit", "gemv_4bit",
    "glu_backward", "glu_forward", "norm_backward", "norm_forward", "quantize_4bit",
    "quantize_8bit", "rope",
}  # fmt: skip


def run(target, checks, *options, tiles="whole"):
    """The kernels that were launched, once all checks have passed."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.ptx_emulator.plugin"),
            *("-p", "no:cacheprovider", *options, *map(str, checks)),
        ],
        env={**kept, "OMP_NUM_THREADS": "1", "PTX_TARGET": target, "PTX_TILES": tiles},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
    (launched,) = re.findall(r"^launches of PTX: (.*)", done.stdout, re.MULTILINE)
    return set(re.findall(r"(\w+)_kernel \d+", launched))


def test_the_emulated_gpu_itself():
    run("90", EMULATOR)


@pytest.mark.slow
def test_every_kernel_as_compiled_for_hopper():
    assert run("90", [*EVERY, *EMULATOR]) == KERNELS


@pytest.mark.parametrize(
    ("target", "tiles"),
    [
        pytest.param("80", "whole", marks=pytest.mark.slow),
        pytest.param("100", "whole", marks=pytest.mark.slow),
        ("120", "as-launched"),
    ],
)
def test_the_products_as_compiled_for(target, tiles):
    """Other instructions carry them there; and the tiles that few rows of W get."""
    launched = run(target, PRODUCTS, "-k", "not any_shape", tiles=tiles)  # that one takes longest
    assert {"gemm_4bit", "gemv_4bit"} <= launched
