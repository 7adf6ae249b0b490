"""Populations (whose data are protected) with their runs, limits and sketches, read from the chain.

The id of a population is random, never derived from data. Data that match several populations merge them for good.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, text

from dpft.privacy.ledger.storage.database import Store, entry
from dpft.privacy.ledger.storage.entries import Limit, Reservation, Search
from dpft.privacy.ledger.storage.errors import refuse

UNKNOWN = "unknown"  # population of runs reserved by versions without populations
_DECLARED = select(entry.c.body).where(text("kind <> 'charge'")).order_by(entry.c.seq)  # uses the partial index
_CHARGED = select(entry.c.run, func.count()).where(entry.c.kind == "charge").group_by(entry.c.run)


@dataclass
class ChargedRun:
    """One run or search of a population. `charged`: its charged steps. `steps`: the steps that count as spent."""

    terms: Reservation | Search
    time: str
    charged: int
    unit: str
    settled: bool = False

    @property
    def steps(self) -> int:
        if isinstance(self.terms, Search):  # whether and when it stopped may depend on the data, so all of it counts
            return self.terms.steps
        return self.charged if self.settled else self.terms.steps


@dataclass
class Population:
    """One population, as the chain describes it.

    `parts`: ids of populations merged into it. `named` and `limit_of`: which part each name and limit belongs to. The
    limit of a part holds for the whole population until it is replaced or lifted.
    """

    id: str
    named: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    sketches: list[str] = field(default_factory=list)
    limit_of: dict[str, Limit] = field(default_factory=dict)
    runs: list[ChargedRun] = field(default_factory=list)
    time: str = ""

    @property
    def names(self) -> list[str]:
        return list(self.named)

    @property
    def limits(self) -> list[Limit]:
        """The limits of all parts; each of them holds."""
        return list(self.limit_of.values())

    @property
    def title(self) -> str:
        return f"{self.id} ({', '.join(self.names)})" if self.names else self.id

    def answers_to(self, words: str, whole: bool = False) -> bool:
        """Whether its id, the id of a part or a name equals `words` or, unless `whole`, begins with it."""
        known = (self.id, *self.parts, *self.names)
        return words in known or (not whole and any(one.startswith(words) for one in known))

    def part(self, words: str) -> str:
        """The id of the part whose name or id is `words`."""
        return self.named.get(words, words)

    def title_of(self, part: str) -> str:
        """The names of a part, or its id if it has none."""
        return ", ".join(name for name, owner in self.named.items() if owner == part) or part

    def absorb(self, other: Population) -> None:
        self.named = {**self.named, **{name: part for name, part in other.named.items() if name not in self.named}}
        self.sketches += [one for one in other.sketches if one not in self.sketches]
        self.parts += [other.id, *other.parts]
        self.limit_of |= other.limit_of
        self.runs += other.runs


class View:
    """All populations of a ledger as of its newest row, oldest first."""

    def __init__(self, store: Store) -> None:
        self.populations: dict[str, Population] = {}
        self._root: dict[str, str] = {}
        self._runs: dict[str, ChargedRun] = {}
        self._charged_to: dict[str, str] = {}
        self._charges: dict[str, int] = {str(run): int(steps) for run, steps in store.all(_CHARGED)}
        for (body,) in store.all(_DECLARED):
            values = json.loads(body)
            _READ.get(values["kind"], View._skip)(self, values)

    def of(self, id: str) -> Population:
        return self.populations[self._root[id]]

    def holding(self, run: str) -> Population | None:
        """The population that a run is charged to."""
        return self.of(self._charged_to[run]) if run in self._charged_to else None

    def is_known(self, words: str, whole: bool = False) -> bool:
        return bool(words) and any(one.answers_to(words, whole) for one in self.populations.values())

    def like(self, words: str) -> str | None:
        """The known name that is most similar to `words`, or None."""
        names = [name for one in self.populations.values() for name in one.names]
        return next(iter(difflib.get_close_matches(words, names, 1)), None)

    def find(self, words: str) -> Population:
        """The population named `words`, or the only one that begins so. Raises LedgerError for none or several."""
        everyone = self.populations.values()
        found = [one for one in everyone if one.answers_to(words, whole=True)]
        found = found or [one for one in everyone if one.answers_to(words)]
        if len(found) != 1 or not words:
            known = ", ".join(one.title for one in self.populations.values()) or "none at all"
            rule = f"a population must be named by its name or id, or a beginning that is no other's (known: {known})"
            refuse(rule, repr(words), "see dpft ledger show")
        return found[0]

    def _skip(self, values: Mapping[str, Any]) -> None:
        """Kinds of rows that do not concern populations."""

    def _population(self, values: Mapping[str, Any]) -> None:
        id, name, digest = values["id"], values.get("name"), values.get("sketch")
        self.populations[id] = Population(
            id, {name: id} if name else {}, [], [digest] if digest else [], time=values["time"]
        )  # fmt: skip
        self._root[id] = id

    def _name(self, values: Mapping[str, Any]) -> None:
        self.of(values["population"]).named.setdefault(values["name"], values["population"])

    def _sketch(self, values: Mapping[str, Any]) -> None:
        self.of(values["population"]).sketches.append(values["sketch"])

    def _join(self, values: Mapping[str, Any]) -> None:
        first, *others = sorted({self._root[id] for id in values["populations"]}, key=list(self.populations).index)
        for other in others:
            self.populations[first].absorb(self.populations.pop(other))
        self._root = {id: first if root in others else root for id, root in self._root.items()}

    def _limit(self, values: Mapping[str, Any]) -> None:
        part = values["population"]
        self.of(part).limit_of[part] = Limit(values["epsilon"], values["delta"], values["planned"])

    def _lift(self, values: Mapping[str, Any]) -> None:
        self.of(values["population"]).limit_of.pop(values["population"], None)

    def _reserve(self, values: Mapping[str, Any]) -> None:
        self._add(Reservation.from_body(values), values)

    def _search(self, values: Mapping[str, Any]) -> None:
        self._add(Search.from_body(values), values)

    def _add(self, terms: Reservation | Search, values: Mapping[str, Any]) -> None:
        id = values.get("population", UNKNOWN)
        if id == UNKNOWN and id not in self._root:
            self._population({"id": UNKNOWN, "time": values["time"]})
        run = ChargedRun(terms, values["time"], self._charges.get(terms.run, 0), values.get("unit", "example"))
        self._runs[terms.run], self._charged_to[terms.run] = run, id
        self.of(id).runs.append(run)

    def _settle(self, values: Mapping[str, Any]) -> None:
        if values["run"] in self._runs:
            self._runs[values["run"]].settled = True


_READ: Mapping[str, Callable[[View, Mapping[str, Any]], None]] = {
    "population": View._population, "name": View._name, "sketch": View._sketch, "join": View._join,
    "limit": View._limit, "lift": View._lift, "reserve": View._reserve, "search": View._search,
    "settle": View._settle,
}  # fmt: skip
