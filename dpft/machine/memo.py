"""A memo of what several runs in one process share: examples, token arrays, frozen features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from dpft.spec import canonical_json

T = TypeVar("T")


class Memo:
    """A memo that keeps nothing: every request computes its value. Enough for a single run."""

    def get(self, what: str, key: Any, make: Callable[[], T]) -> T:
        """Return the value of kind `what` for `key`, or call `make`. `key`: a JSON value that determines the value."""
        return make()

    def uncounted(self) -> Memo:
        """The same memo for a caller whose number of requests must stay secret: requests are not counted."""
        return self


class CachingMemo(Memo):
    """A memo that keeps every value for its own lifetime and counts requests (`asked`) and computations (`made`)."""

    def __init__(self) -> None:
        self._things: dict[tuple[str, str], Any] = {}
        self.asked: Counter[str] = Counter()
        self.made: Counter[str] = Counter()

    def get(self, what: str, key: Any, make: Callable[[], T]) -> T:
        self.asked[what] += 1
        return self.look_up(what, key, make)

    def uncounted(self) -> Memo:
        return _UncountedMemo(self)

    def look_up(self, what: str, key: Any, make: Callable[[], T]) -> T:
        """`get`, without counting the request."""
        place = (what, canonical_json(key))
        if place not in self._things:
            self._things[place] = make()
            self.made[what] += 1
        found: T = self._things[place]
        return found


class _UncountedMemo(Memo):
    def __init__(self, kept: CachingMemo) -> None:
        self._kept = kept

    def get(self, what: str, key: Any, make: Callable[[], T]) -> T:
        return self._kept.look_up(what, key, make)
