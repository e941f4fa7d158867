"""When which job is due, with a scripted clock."""

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

from mdl.cachemgr.daemon.loop import PERIODS, due_jobs
from mdl.cachemgr.daemon.usage import UseJournal
from tests.daemon.conftest import MakeLoop, make_repo


class Clock:
    """Time passes only while somebody waits; notes wake the waiter at scripted moments."""

    def __init__(self, until: float, wakes: tuple[float, ...] = ()) -> None:
        self.now, self._until, self._wakes = 0.0, until, list(wakes)

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> str:
        end, why = self.now + max(seconds, 0.001), ""
        if self._wakes and self._wakes[0] < end:
            end, why = self._wakes.pop(0), "noted"
        self.now = end
        return "stop" if self.now >= self._until else why


def test_every_job_comes_at_its_period() -> None:
    clock = Clock(until=3600)
    done = Counter(due_jobs(clock, clock.wait, {}))
    assert done == {
        job: int(3600 / period) + (3600 % period > 0) for job, period in PERIODS.items()
    }


def test_a_note_wakes_the_look_and_nothing_else() -> None:
    clock = Clock(until=0.9, wakes=(0.2,))
    jobs = list(due_jobs(clock, clock.wait, {}))
    assert jobs == [*PERIODS, "look"]


def test_a_slow_disk_is_looked_at_less_often_but_within_bounds() -> None:
    clock = Clock(until=100)
    slow = Counter(due_jobs(clock, clock.wait, {"floor": 0.05, "look": 60.0}))
    clock = Clock(until=100)
    slowest = Counter(due_jobs(clock, clock.wait, {"floor": 60.0}))
    assert slow["floor"] == 10
    assert slow["look"] == 67  # every second and a half: the index follows within two
    assert slowest["floor"] == 2


def test_hours_of_idle_leave_nothing_behind(make_loop: MakeLoop, settings: object) -> None:
    loop = make_loop()
    root = Path(loop.root)
    for n in range(5):
        make_repo(root, f"Org/Model-{n}", {"config.json": b"%d" % n})
    loop._uses = UseJournal(loop.root, lambda _: {})

    def hours(count: float) -> None:
        clock = Clock(until=3600.0 * count)
        for job in due_jobs(clock, clock.wait, loop.took):
            loop.run(job)

    hours(0.2)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    files = sorted(settings.home.rglob("*"))  # type: ignore[attr-defined]
    size = loop.cache.index.path.stat().st_size
    hours(1)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert loop.state.counts.errors == 0
    assert grown < 64 * 1024
    assert sorted(settings.home.rglob("*")) == files  # type: ignore[attr-defined]
    assert loop.cache.index.path.stat().st_size == size
