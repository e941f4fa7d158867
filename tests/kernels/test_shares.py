"""Chunked work is shared out over threads without gaps, and inside the caller's modes."""

import itertools
import threading

import pytest
import torch

import mdl.kernels as kernels
from mdl.kernels.runtime.cpu_threads import CHUNK, in_threads

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [0, 1, CHUNK, 5 * CHUNK + 1, 3_000_001])
def test_shares_cover_everything_once(n):
    seen, lock = [], threading.Lock()

    def work(start, end, step):
        with lock:
            seen.append((start, end))
        assert step == CHUNK

    in_threads(n, CPU, work)
    seen.sort()
    assert seen[0][0] == 0
    assert seen[-1][1] == n
    assert all(one[1] == other[0] for one, other in itertools.pairwise(seen))
    assert all(start % CHUNK == 0 for start, _ in seen)


def test_a_device_of_its_own_threads_gets_one_chunk():
    seen = []
    in_threads(3_000_000, torch.device("meta"), lambda *share: seen.append(share))
    assert seen == [(0, 3_000_000, 3_000_000)]


def test_an_error_in_a_share_reaches_the_caller():
    def work(start, end, step):
        raise ValueError(start)

    with pytest.raises(ValueError):
        in_threads(3_000_000, CPU, work)


def test_several_threads_under_inference_mode():
    """Tensors made in inference mode may only be written in it, by every thread."""
    tensor = torch.randn(1500, 1024, generator=torch.Generator().manual_seed(0))
    plain = kernels.quantize_4bit(tensor)
    with torch.inference_mode():
        packed = kernels.quantize_4bit(tensor.clone())
        back = kernels.dequantize_4bit(packed)
    assert torch.equal(packed.packed, plain.packed)
    assert torch.equal(back.clone(), kernels.dequantize_4bit(plain))
