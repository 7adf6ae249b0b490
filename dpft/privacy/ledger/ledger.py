"""An append-only, hash-chained record of every noisy release, shared by all runs, people and machines.

It records no loss, no norm and no batch size drawn; it does record the time of each charge, to the second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import IntegrityError

from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.limits import Decision
from dpft.privacy.ledger.population_match import DataIdentity, PopulationMatch
from dpft.privacy.ledger.populations import UNKNOWN, Population, View
from dpft.privacy.ledger.storage import hash_chain
from dpft.privacy.ledger.storage.database import entry
from dpft.privacy.ledger.storage.entries import Event, Limit, Reservation, Search, check_population_name
from dpft.privacy.ledger.storage.errors import is_whole, refuse
from dpft.privacy.ledger.storage.fingerprints import keyed_digest
from dpft.privacy.ledger.storage.opening import open_store

_TIDY_CHARGES = 256  # about 4 MB of SQLite's write-ahead log, as its own default of 1,000 pages
_RUN, _KIND = entry.c.run == bindparam("of"), entry.c.kind == bindparam("what")
_BODY = select(entry.c.body).where(_RUN, _KIND)
_COUNT = select(func.count()).select_from(entry).where(_RUN, _KIND)
_NEXT_STEP = select(func.coalesce(func.max(entry.c.step), -1) + 1).where(_RUN, _KIND)


class Ledger:
    """Reserve before the first gradient, charge before each release, settle at the end.

    `place`: a file, or postgresql+psycopg://USER@HOST/DATABASE. Use one Ledger per process and thread. If a method
    returns without LedgerError, its entry is durable.
    """

    def __init__(self, place: Path | str) -> None:
        self.store = open_store(place)
        self._accepted: Decision | None = None

    @property
    def place(self) -> Path | str:
        """The location of the ledger, without a password."""
        return self.store.place

    @property
    def note(self) -> str | None:
        """A warning for the user who opened the ledger, or None."""
        if not self.store.narrowed:
            return None
        return (
            f"the ledger {self.place}, with the key by which texts are recognised, was readable by others on this "
            "machine; now only you can read it"
        )

    def data_identity(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, name: str | None = None, unit: str = "example"
    ) -> DataIdentity:
        """Match data to their population: a sketch of the texts, and the given population name. Writes nothing."""
        return DataIdentity.of(self.store, texts, pairs, name, unit)

    def check(self, terms: Reservation | Search, data_identity: DataIdentity | None) -> str | None:
        """Raise OverLimit if `terms` would exceed a limit of the data's population. Writes nothing.

        Returns a warning to show before anything is spent, or None.
        """
        return self._decide(View(self.store), terms, data_identity).note

    def reserve(
        self, run: str, *, rate: float, noise: float, steps: int, delta: float, epsilon: float,
        data_identity: DataIdentity | None = None, data: str | None = None,
    ) -> None:  # fmt: skip
        """Reserve everything that the run may release. A run reserves once.

        data_identity: whose data these are. data: keyed digest of its rows, to recognise them on a resume.
        Raises OverLimit if the population's limit does not leave enough. If several runs ask at the same time for
        budget that suffices for one, one of them gets it.
        """
        terms = Reservation(run, float(rate), float(noise), steps, float(delta), float(epsilon))
        self._declare("reserve", terms, {**asdict(terms), **_data(data)}, data_identity)

    def reserve_search(
        self, run: str, *, rate: float, noise: float, steps: int, mean: float, shape: float,
        data_identity: DataIdentity | None = None, data: str | None = None,
    ) -> None:  # fmt: skip
        """Reserve a whole random search (see `Search`). It counts as spent from now on; its runs are not charged again.

        Each run must draw its hyper-parameters in secret and independently of all others. Draw K by `draw_runs`
        afterwards. Keep K, and every run but the best, secret.
        """
        terms = Search(run, float(rate), float(noise), steps, float(mean), float(shape))
        self._declare("search", terms, {**terms.to_body(), **_data(data)}, data_identity)

    def limit(
        self, population: str, *, epsilon: float, delta: float, planned: bool = False, new: bool = False
    ) -> Population:
        """Limit what all runs on a population may spend together. `new`: create the population, without data so far.

        Populations that were merged keep their own limits, and all of these hold: only the limit of the named one is
        replaced. Raises LedgerError if the name is unknown, or with `new` if it is known.
        """
        terms = Limit(float(epsilon), float(delta), planned)
        with self.store.writing():
            view = View(self.store)
            if new:
                check_population_name(population)
                if view.is_known(population, whole=True):
                    refuse("a new population must have a new name", f"{population!r}, which is known", "drop --new")
                part = PopulationMatch.new(self.store, population, None)
            else:
                part = _limited(view, population)
            hash_chain.append(self.store, "limit", {"population": part, **asdict(terms)})
        return self.view().of(part)

    def lift(self, population: str) -> Population:
        """Remove the limit of this population, given by name or id. Limits of populations merged with it stay."""
        with self.store.writing():
            view = View(self.store)
            part = _limited(view, population)
            if part not in view.of(part).limit_of:
                refuse("only a limit that is set can be lifted", f"none of {population!r}", "see dpft ledger show")
            hash_chain.append(self.store, "lift", {"population": part})
        return self.view().of(part)

    def charge(self, event: Event) -> None:
        """Record one release durably before it happens. Raises LedgerError if it must not happen."""
        run, step, terms = event.run, event.step, (float(event.rate), float(event.noise))
        with self.store.writing():
            held = self.reservation(run)
            if held is None:
                refuse("a run reserves before it is charged", f"no reservation of {run!r}", "call reserve()")
            if self.is_settled(run):
                refuse("a settled run releases no more", f"step {step} of {run!r}", "start a new run")
            if not (is_whole(step) and 0 <= step < held.steps):
                rule = f"step must be a whole number from 0 to {held.steps - 1}, as reserved"
                refuse(rule, repr(step), "start a new run with its own budget")
            if terms != (held.rate, held.noise):
                rule = f"(rate, noise) must be as reserved, {(held.rate, held.noise)}"
                refuse(rule, terms, "resume with the run's own plan")
            try:
                hash_chain.append(
                    self.store, "charge", {"run": run, "step": step, "rate": terms[0], "noise": terms[1]}
                )  # fmt: skip
            except IntegrityError:
                found = f"step {step} of {run!r} again"
                refuse("a step is charged once", found, "stop any other process on this run, then resume it")
        if step % _TIDY_CHARGES == _TIDY_CHARGES - 1:
            self.store.tidy()

    def settle(self, run: str) -> None:
        """Close the run: no further charges. May be repeated, for example by a resumed run."""
        with self.store.writing():
            if self.reservation(run) is None:
                refuse("a run reserves before it settles", f"no reservation of {run!r}", "call reserve()")
            if not self.is_settled(run):
                hash_chain.append(self.store, "settle", {"run": run})

    def charged(self, run: str) -> int:
        """The number of charged steps of the run."""
        return int(self.store.one(_COUNT, of=run, what="charge")[0])

    def next_step(self, run: str) -> int:
        """The step after the last charged one, where a resumed run continues."""
        return int(self.store.one(_NEXT_STEP, of=run, what="charge")[0])

    def reservation(self, run: str) -> Reservation | None:
        row = self.store.one(_BODY, of=run, what="reserve")
        return None if row is None else Reservation.from_body(json.loads(row[0]))

    def search(self, run: str) -> Search | None:
        row = self.store.one(_BODY, of=run, what="search")
        return None if row is None else Search.from_body(json.loads(row[0]))

    def keyed(self, parts: Iterable[bytes]) -> str:
        """HMAC-SHA256 of the concatenated parts under the ledger's key."""
        return keyed_digest(hash_chain.key(self.store), parts)

    def data(self, run: str) -> str | None:
        """The keyed digest of the rows that a run or search was reserved for; None in older entries."""
        for kind in ("reserve", "search"):
            row = self.store.one(_BODY, of=run, what=kind)
            if row is not None:
                found: str | None = json.loads(row[0]).get("data")
                return found
        return None

    def is_settled(self, run: str) -> bool:
        return self.store.one(_BODY, of=run, what="settle") is not None

    def view(self) -> View:
        """All populations, with their runs, limits and sketches."""
        return View(self.store)

    def head(self) -> str:
        """The newest row's hash. A copy outside the ledger proves that no row up to it was removed."""
        return hash_chain.last(self.store)[1]

    def rows(self) -> int:
        return hash_chain.last(self.store)[0]

    def verify(self, head: str | None = None, *more: str) -> None:
        """Recompute the chain and check its sketches. Raises LedgerError at a bad row, or if a head is missing."""
        hash_chain.verify(self.store, {one for one in (head, *more) if one is not None})

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _declare(
        self, kind: str, terms: Reservation | Search, body: Mapping[str, Any], data_identity: DataIdentity | None
    ) -> None:
        """Decide outside the transaction, as this may take seconds. Write inside it, if nothing has changed since."""
        while True:
            decision = self._decide(View(self.store), terms, data_identity)
            with self.store.writing():
                view = View(self.store)
                matched = data_identity.matched(view) if data_identity else None
                if _decision(view, terms, matched) != decision:
                    continue
                where = {} if matched is None else matched.settle(self.store, view)
                try:
                    hash_chain.append(self.store, kind, {**body, **where})
                except IntegrityError:
                    refuse("a run reserves once", f"run {terms.run!r} again", "resume it, or start a new run")
                return

    def _decide(self, view: View, terms: Reservation | Search, data_identity: DataIdentity | None) -> Decision:
        decision = _decision(view, terms, data_identity.matched(view) if data_identity else None)
        if decision != self._accepted:
            decision.check()
            self._accepted = decision
        return decision


def _data(digest: str | None) -> dict[str, str]:
    return {} if digest is None else {"data": digest}


def _limited(view: View, words: str) -> str:
    """The id of the population (or part of a merged one) whose full name or id is `words`. Raises LedgerError.

    A prefix is not enough: a typing error could loosen the limit of another population.
    """
    if not view.is_known(words, whole=True):
        check_population_name(words)
        known = ", ".join(one.title for one in view.populations.values()) or "none at all"
        slip = view.like(words)
        remedy = "pass --new to make one that awaits its data"
        refuse(f"a limit needs the whole name or id of a population that is known (known: {known})", repr(words),
               f"did you mean {slip!r}? else {remedy}" if slip else remedy)  # fmt: skip
    population = view.find(words)
    if population.id == UNKNOWN:
        rule = "a limit holds the runs of data that are known again"
        refuse(rule, f"the population {UNKNOWN!r}, of runs from before there were any", "name another")
    return population.part(words)


def _decision(view: View, terms: Reservation | Search, matched: PopulationMatch | None) -> Decision:
    """The inputs of the decision. A run without a known population has no limit."""
    found = [] if matched is None else matched.populations(view)
    together = Population("", runs=[run for one in found for run in one.runs])
    limits = tuple(limit for one in found for limit in one.limits)
    spent = Spending.of(together)
    unit = "example" if matched is None else matched.unit
    return Decision(spent, terms, limits, " + ".join(one.title for one in found), unit)
