"""Questions that wait at the same moment are asked together: the way costs more than a row."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mdl.errors import BusyError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Gathers what is asked while earlier questions are under way, and asks it as one.

    Nobody waits to be gathered: a question that finds no other under way goes at once. Two groups
    are under way only where the first takes long. Only the event loop's.

    Args:
        ask: answers questions in their order; an exception among the answers is that question's.
        most: questions taken together.
        patience: seconds after which a group holds the next one up no longer.
        waiting: questions that may wait to be taken.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int = 64,
        patience: float = 0.1,
        waiting: int = 256,
    ) -> None:
        self._ask = ask
        self._most, self._patience, self._max_waiting = most, patience, waiting
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._ahead: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def __call__(self, question: Question) -> Answer:
        """The answer to one question.

        Raises:
            BusyError: too many wait already.
            Exception: what `ask` raised, or gave as this question's answer.
        """
        if len(self._waiting) >= self._max_waiting:
            raise BusyError("Too many requests are waiting.", next="Try again in a moment.")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        self._start()
        return await future

    def _start(self) -> None:
        if not self._waiting or self._ahead is not None:
            return
        group = self._waiting[: self._most]
        del self._waiting[: self._most]
        task = self._ahead = asyncio.create_task(self._run(group))
        self._running.add(task)  # the event loop itself would let go of it
        impatient = asyncio.get_running_loop().call_later(self._patience, self._pass, task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(self._pass)
        task.add_done_callback(lambda _: impatient.cancel())

    def _pass(self, task: asyncio.Task[None]) -> None:
        """The next group may go: this one has ended, or takes long."""
        if self._ahead is task:
            self._ahead = None
            self._start()

    async def _run(self, group: Sequence[tuple[Question, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._ask([question for question, _ in group])
        except asyncio.CancelledError:  # the service ends
            for _, future in group:
                future.cancel()
            raise
        except Exception as error:
            answers = [error] * len(group)
        for (_, future), answer in zip(group, answers, strict=True):
            if future.done():
                continue  # whoever asked has gone
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
