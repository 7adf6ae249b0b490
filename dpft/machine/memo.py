"""What several runs of one process have in common, made once: rows, token arrays, frozen features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from dpft.spec import canonical_json

T = TypeVar("T")


class Shelf:
    """Keeps nothing: whatever is asked for is made. A run by itself needs no more."""

    def get(self, what: str, key: Any, make: Callable[[], T]) -> T:
        """`what` of `key`, a JSON value that decides all of it."""
        return make()

    def uncounted(self) -> Shelf:
        """The same things for somebody whose number of questions must stay secret."""
        return self


class Kept(Shelf):
    """Keeps all that it made for as long as it lives, and counts who asked."""

    def __init__(self) -> None:
        self._things: dict[tuple[str, str], Any] = {}
        self.asked: Counter[str] = Counter()
        self.made: Counter[str] = Counter()

    def get(self, what: str, key: Any, make: Callable[[], T]) -> T:
        self.asked[what] += 1
        return self.look_up(what, key, make)

    def uncounted(self) -> Shelf:
        return _Uncounted(self)

    def look_up(self, what: str, key: Any, make: Callable[[], T]) -> T:
        """`get` for those who are not counted."""
        place = (what, canonical_json(key))
        if place not in self._things:
            self._things[place] = make()
            self.made[what] += 1
        found: T = self._things[place]
        return found


class _Uncounted(Shelf):
    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def get(self, what: str, key: Any, make: Callable[[], T]) -> T:
        return self._kept.look_up(what, key, make)
