"""Importing the kernels needs torch and nothing else, so they work where Triton does not exist."""

import subprocess
import sys

PROGRAM = """
import sys
for name in ("triton", "bitsandbytes", "transformers", "peft"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
import mdl.kernels as kernels
weight = kernels.quantize_4bit(torch.randn(8, 64))
assert kernels.linear_4bit(torch.randn(2, 64), weight).shape == (2, 8)
assert kernels.apply(torch.nn.Sequential(torch.nn.LayerNorm(8))).counts == {"layer_norm": 1}
"""


def test_no_other_library_is_needed():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
