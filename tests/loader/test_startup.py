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
from mdl.loader.build.cold_start import collector_resting, import_libraries, make_all_old, prefetch
from mdl.loader.checkpoint.checkpoint import read_checkpoint
from mdl.loader.request import LoadRequest


def is_cached(path: Path) -> bool:
    """Whether the file's last page is in the page cache: a read that may not wait succeeds."""
    with path.open("rb") as stream:
        try:
            at = path.stat().st_size - 1
            return os.preadv(stream.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="needs Linux's preadv2")
def test_the_weights_are_brought_into_the_page_cache(tiny_model: Callable[..., Path]) -> None:
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
def test_the_collector_is_left_as_it_was(was_on: bool) -> None:
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(ZeroDivisionError), collector_resting():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


@pytest.mark.skipif(gc.get_freeze_count() != 0, reason="this Python froze objects at its start")
def test_what_is_made_old_is_still_collected_later() -> None:
    class Node:
        pass

    gc.unfreeze()  # what a command that was tested in this process froze
    node = Node()
    node.itself = node  # type: ignore[attr-defined] # garbage that only the collector finds
    seen = weakref.ref(node)
    with collector_resting():
        make_all_old()
        assert any(found is node for found in gc.get_objects(generation=2))
        assert gc.get_freeze_count() == 0
        del node
    gc.collect()
    assert seen() is None


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        make_all_old()
        assert gc.get_freeze_count() == frozen > 0
    finally:
        gc.unfreeze()


def test_an_exact_load_imports_no_bitsandbytes(
    tiny_model: Callable[..., Path], hub_env: dict[str, str]
) -> None:
    """Its decorators pull torch's compiler in: a second that only 4 and 8 bits have to pay."""
    code = f"""
import gc, sys, mdl
mdl.load({str(tiny_model("llama"))!r})
assert gc.isenabled()
for name in ("bitsandbytes", "torch._inductor.compile_fx"):
    assert name not in sys.modules, f"{{name}} was imported for nothing"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub_env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_architecture_is_said_before_anything_is_built(
    tiny_model: Callable[..., Path],
) -> None:
    checkpoint = read_checkpoint(tiny_model("llama"))
    checkpoint.config["architectures"] = ["NoSuchModel"]  # type: ignore[index] # a dict
    with pytest.raises(LoadError, match="NoSuchModel"):
        import_libraries(checkpoint, LoadRequest("x"))
