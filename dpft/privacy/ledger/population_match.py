"""Match a run's data to populations: all that their sketch matches, and the one that the user names."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from dpft.privacy.ledger.populations import UNKNOWN, Population, View
from dpft.privacy.ledger.storage import hash_chain
from dpft.privacy.ledger.storage.database import Store, sketch
from dpft.privacy.ledger.storage.entries import check_population_name
from dpft.privacy.ledger.storage.errors import refuse
from dpft.privacy.ledger.storage.fingerprints import Sketch


@dataclass
class DataIdentity:
    """A data set to match: its sketch, the population name if one was given, and the unit that the run protects."""

    store: Store
    sketch: Sketch
    name: str | None
    unit: str
    _seen: dict[str, Sketch] = field(default_factory=dict)

    @classmethod
    def of(
        cls, store: Store, texts: Sequence[str], pairs: Sequence[str] | None, name: str | None, unit: str
    ) -> DataIdentity:
        if name is not None:
            check_population_name(name)
        return cls(store, Sketch.of(hash_chain.key(store), texts, pairs), name, unit)

    def matched(self, view: View) -> PopulationMatch:
        """The populations in `view` that the data belong to, oldest first. Computed anew at each call."""
        found = [one.id for one in view.populations.values() if self._is_of(one)]
        return PopulationMatch(self, tuple(found))

    def known(self, population: Population) -> list[Sketch]:
        return [self._load(digest) for digest in population.sketches]

    def _is_of(self, population: Population) -> bool:
        if population.id == UNKNOWN:
            return False
        named = self.name is not None and population.answers_to(self.name, whole=True)
        return named or any(self.sketch.matches(one) for one in self.known(population))

    def _load(self, digest: str) -> Sketch:
        if digest not in self._seen:
            row = self.store.one(sketch.select().where(sketch.c.digest == digest))
            blob = b"" if row is None else bytes(row[1])
            if hashlib.sha256(blob).hexdigest() != digest:
                rule = f"the ledger must hold the sketch {digest[:12]} as it was written"
                refuse(rule, "another or none", f"restore {self.store.place} from a backup")
            self._seen[digest] = Sketch.from_bytes(blob)
        return self._seen[digest]


@dataclass(frozen=True)
class PopulationMatch:
    """The populations that a data set matched, at one moment."""

    data_identity: DataIdentity
    ids: tuple[str, ...]

    @property
    def unit(self) -> str:
        return self.data_identity.unit

    def populations(self, view: View) -> list[Population]:
        return [view.of(id) for id in self.ids]

    def settle(self, store: Store, view: View) -> dict[str, str]:
        """Inside `store.writing()`: write what is new about the population. Returns the fields of the run's entry."""
        return {"population": self._known(store, view), "unit": self.unit}

    def _known(self, store: Store, view: View) -> str:
        name = self.data_identity.name
        if not self.ids:
            return self.new(store, name, self.data_identity.sketch)
        first, found = self.ids[0], self.populations(view)
        if len(self.ids) > 1:
            hash_chain.append(store, "join", {"populations": list(self.ids)})
        if name is not None and not any(one.answers_to(name, whole=True) for one in found):
            hash_chain.append(store, "name", {"population": first, "name": name})
        if self.data_identity.sketch.is_new_to([known for one in found for known in self.data_identity.known(one)]):
            hash_chain.append(store, "sketch", {"population": first, **_kept(store, self.data_identity.sketch)})
        return first

    @staticmethod
    def new(store: Store, name: str | None, data: Sketch | None) -> str:
        """Inside `store.writing()`: create a population, without data if `data` is None. Returns its id."""
        id = secrets.token_hex(8)
        kept = {} if data is None else _kept(store, data)
        hash_chain.append(store, "population", {"id": id, "name": name, **kept})
        return id


def _kept(store: Store, data: Sketch) -> dict[str, str]:
    """Store a sketch. Returns the fields by which the chain refers to it."""
    if store.one(sketch.select().where(sketch.c.digest == data.digest)) is None:
        store.insert(sketch, digest=data.digest, keys=data.blob)
    return {"sketch": data.digest, "key": hashlib.sha256(hash_chain.key(store)).hexdigest()}
