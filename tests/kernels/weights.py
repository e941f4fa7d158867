"""Packed 4-bit weights for the tests, without bitsandbytes."""

import torch

import mdl.kernels as kernels


def packed_weight(n, k, dtype=torch.float32, *, blocksize=64, nested=True, quant_type="nf4"):
    """A random weight of shape [n, k], quantized."""
    make = torch.Generator().manual_seed(n * 1000 + k)
    dense = (torch.randn(n, k, generator=make) / k**0.5).to(dtype)
    return kernels.quantize_4bit(dense, blocksize=blocksize, nested=nested, quant_type=quant_type)


def rows(m, k, dtype=torch.float32, seed=0):
    """A random input [m, k]."""
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)
