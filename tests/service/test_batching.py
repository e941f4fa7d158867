"""Questions gathered while earlier ones are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from mdl.errors import BusyError, StoreError
from mdl.service.resolving.batching import Batcher


class Database:
    """Answers a group once it is let go on; notes the groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go_on = asyncio.Event()

    async def ask(self, questions: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(questions))
        await self.go_on.wait()
        if 500 in questions:
            raise StoreError("The database does not answer.")
        return [KeyError(q) if q == 404 else q * 10 for q in questions]


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


async def asked(together: Batcher[int, int], *questions: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(together(question)) for question in questions]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


@in_a_loop
async def test_the_first_goes_at_once_and_the_others_together() -> None:
    database = Database()
    together = Batcher[int, int](database.ask, most=3, patience=60)
    first = await asked(together, 1)
    others = await asked(together, 2, 3, 4, 5)
    assert (database.groups, together.waiting) == ([[1]], 4)
    database.go_on.set()
    assert [await task for task in (*first, *others)] == [10, 20, 30, 40, 50]
    assert database.groups == [[1], [2, 3, 4], [5]]


@in_a_loop
async def test_an_answer_that_is_an_error_is_its_askers_alone() -> None:
    database = Database()
    together = Batcher[int, int](database.ask, patience=60)
    first = await asked(together, 1)
    second = await asked(together, 404, 2)
    failing = await asked(together, 3)
    database.go_on.set()
    answers = await asyncio.gather(*first, *second, *failing, return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, KeyError, int, int]


@in_a_loop
async def test_a_group_that_fails_fails_for_each_of_it_and_the_next_goes_on() -> None:
    database = Database()
    together = Batcher[int, int](database.ask, most=2, patience=60)
    first = await asked(together, 1)
    others = await asked(together, 500, 2, 3)
    database.go_on.set()
    answers = await asyncio.gather(*first, *others, return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, StoreError, StoreError, int]


@in_a_loop
async def test_a_group_that_takes_long_holds_nobody_up() -> None:
    database = Database()
    together = Batcher[int, int](database.ask, patience=0.01)
    stuck = await asked(together, 1)
    others = await asked(together, 2)
    async with asyncio.timeout(30):
        while len(database.groups) < 2:
            await asyncio.sleep(0.001)
    database.go_on.set()
    assert [await task for task in (*stuck, *others)] == [10, 20]


@in_a_loop
async def test_who_goes_away_takes_nobody_along() -> None:
    database = Database()
    together = Batcher[int, int](database.ask, patience=60)
    first, gone, other = await asked(together, 1, 2, 3)
    gone.cancel()
    database.go_on.set()
    assert [await first, await other] == [10, 30]
    assert gone.cancelled()


@in_a_loop
async def test_more_than_may_wait_are_refused() -> None:
    database = Database()
    together = Batcher[int, int](database.ask, patience=60, waiting=2)
    taken = await asked(together, 1, 2, 3)
    with pytest.raises(BusyError):
        await together(4)
    database.go_on.set()
    assert [await task for task in taken] == [10, 20, 30]


@in_a_loop
async def test_where_the_service_ends_nobody_is_left_waiting() -> None:
    async def ended(questions: Sequence[int]) -> list[int | Exception]:
        raise asyncio.CancelledError

    together = Batcher[int, int](ended, patience=60)
    (asked_for,) = await asked(together, 1)
    async with asyncio.timeout(30):
        await asyncio.wait([asked_for])
    assert asked_for.cancelled()
