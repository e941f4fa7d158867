"""The answers that were asked for just now: popular names cost a look-up, not a resolution."""

import time
from collections import OrderedDict
from typing import NamedTuple

# As fresh as the view of the cache: what another replica changes is seen two seconds later.
LIFE = 2.0
_MOST = 10_000


class HotAnswer(NamedTuple):
    """A finished answer to an anonymous caller."""

    made: float
    body: bytes
    status: int
    name: str
    repo_id: str
    outcome: str


class HotAnswers:
    """Answers by query and role, for two seconds, the 10,000 newest. Only the event loop's."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[bytes, str], HotAnswer] = OrderedDict()

    def get(self, query: bytes, role: str) -> HotAnswer | None:
        found = self._held.get((query, role))
        if found is None or time.monotonic() - found.made > LIFE:
            return None
        return found

    def put(self, query: bytes, role: str, answer: HotAnswer) -> None:
        key = (query, role)
        self._held[key] = answer
        self._held.move_to_end(key)
        if len(self._held) > _MOST:
            self._held.popitem(last=False)
