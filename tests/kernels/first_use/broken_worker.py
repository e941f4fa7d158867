"""The checking process with a kernel that is broken in the way that its arguments name.

`python -m tests.kernels.first_use.broken_worker HOW [LOG]`; each run adds a line to LOG.
"""

import os
import sys
import threading
from pathlib import Path

import torch

from mdl import kernels
from mdl.kernels.first_use import worker

right = kernels.rms_norm


def wrong_in_one_element(x, weight, *args, **kwargs):
    made = right(x, weight, *args, **kwargs).clone()
    made.view(-1)[made.numel() // 2] += 1.0
    return made


def slow(x, weight, *args, **kwargs):
    for _ in range(50):
        right(x, weight, *args, **kwargs)
    return right(x, weight, *args, **kwargs)


def does_not_compile(*args, **kwargs):
    raise RuntimeError("error: 'tt.dot' op expected 16 rows\nat line 7")


def hangs(*args, **kwargs):
    threading.Event().wait()


def fails_at_the_third_shape(x, weight, *args, **kwargs):
    if x.shape[0] == 512:
        raise RuntimeError("out of resource: shared memory")
    return right(x, weight, *args, **kwargs)


def out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory")


def dies(*args, **kwargs):
    print("Segmentation fault (address not mapped)", file=sys.stderr, flush=True)
    os._exit(139)


def main():
    how = sys.argv[1]
    if sys.argv[2:]:
        with Path(sys.argv[2]).open("a") as log:
            log.write(f"{os.getpid()}\n")
    if how == "does_not_start":
        sys.exit("no CUDA-capable device is available")
    if how == "is_silent":
        threading.Event().wait()
    if how == "chatty":
        print("a library's banner on standard output")
    elif how != "right":
        kernels.rms_norm = globals()[how]
    worker._ROUNDS = 3
    torch.set_num_threads(1)
    worker.main()


main()
