"""What makes a cold start shorter leaves no trace in the process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from mdl.errors import LoadError
from mdl.loader.build.cold_start import age_all_objects, gc_paused, import_libraries, prefetch
from mdl.loader.checkpoint.checkpoint import read_checkpoint


def is_cached(path: Path) -> bool:
    """Whether the file's last page is in the page cache: a non-blocking read succeeds."""
    with path.open("rb") as stream:
        try:
            at = path.stat().st_size - 1
            return os.preadv(stream.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="needs Linux's preadv2")
def test_prefetching_reads_the_weights_into_the_page_cache(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    weights = folder / "model.safetensors"
    with weights.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    thread = prefetch(read_checkpoint(folder))
    assert thread is not None
    thread.join(10)
    deadline = time.monotonic() + 10
    while not is_cached(weights):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_is_restored(was_on: bool) -> None:
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(ZeroDivisionError), gc_paused():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


@pytest.mark.skipif(gc.get_freeze_count() != 0, reason="this Python freezes objects at startup")
def test_aged_garbage_is_still_collected_later() -> None:
    class Node:
        pass

    gc.unfreeze()  # what a command run in this process froze
    node = Node()
    node.itself = node  # type: ignore[attr-defined] # a cycle, which only the collector frees
    seen = weakref.ref(node)
    with gc_paused():
        age_all_objects()
        assert any(found is node for found in gc.get_objects(generation=2))
        assert gc.get_freeze_count() == 0
        del node
    gc.collect()
    assert seen() is None


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        age_all_objects()
        assert gc.get_freeze_count() == frozen > 0
    finally:
        gc.unfreeze()


def test_a_16bit_load_does_not_import_bitsandbytes(
    tiny_model: Callable[..., Path], hub_env: dict[str, str]
) -> None:
    """Its decorators import torch's compiler: a second that only 4- and 8-bit loads need."""
    code = f"""
import gc, sys, mdl
mdl.load({str(tiny_model("llama"))!r})
assert gc.isenabled()
for name in ("bitsandbytes", "torch._inductor.compile_fx"):
    assert name not in sys.modules, f"{{name}} was imported needlessly"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub_env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_architecture_is_rejected_before_building(
    tiny_model: Callable[..., Path],
) -> None:
    checkpoint = read_checkpoint(tiny_model("llama"))
    changed = {"architectures": ["NoSuchModel"], "model_type": "no_such_model"}
    checkpoint.config.update(changed)  # type: ignore[attr-defined] # a dict
    with pytest.raises(LoadError, match="NoSuchModel"):
        import_libraries(checkpoint)
