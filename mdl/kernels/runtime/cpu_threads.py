"""Chunked work on all cores that other processes cannot slow down more than their share.

torch's own threads meet after every operation. With chunks small enough for the cache that is
thousands of meetings, each waiting for the thread that another process has just pushed aside. Here
each thread takes one share of the chunks, on operations too small for torch to split, and the
threads meet once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

CHUNK = 7 * 4096
"""Elements: whole blocks of every size, and fewer than the 32,768 torch starts to split at."""

_WORTH_A_THREAD = 1 << 20


def in_threads(n: int, device: torch.device, work: Callable[[int, int, int], None]) -> None:
    """Call `work(start, end, step)` so that the shares cover `range(n)`; `step` is a chunk's size.

    Starts are multiples of CHUNK. Not on a CPU, all of it is one share and one chunk.
    """
    if device.type != "cpu":
        work(0, n, max(1, n))
        return
    threads = min(torch.get_num_threads(), -(-n // _WORTH_A_THREAD))
    if threads <= 1:
        work(0, n, CHUNK)
        return
    share = -(-n // (threads * CHUNK)) * CHUNK
    inference = torch.is_inference_mode_enabled()

    def run(start: int) -> None:
        with torch.inference_mode(inference):  # a thread does not inherit it
            work(start, min(start + share, n), CHUNK)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(0, n, share)))
