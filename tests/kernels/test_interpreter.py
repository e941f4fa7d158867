"""The Triton kernels themselves, on the CPU: Triton's interpreter in a process of its own.

`TRITON_INTERPRET` is read when a kernel is defined, so it cannot be switched inside this process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HERE = Path(__file__).parent
CHECKS = [*sorted((HERE / "interpreted").glob("check_*.py")), HERE / "test_edges.py"]


@pytest.fixture(scope="module")
def outcome():
    """All interpreted checks, run once."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, CHECKS)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_kernels_equal_their_references(outcome):
    assert len(CHECKS) > 5
    assert outcome.returncode == 0, outcome.stdout[-6000:] + outcome.stderr[-2000:]
    assert "skipped" not in outcome.stdout.splitlines()[-1]
