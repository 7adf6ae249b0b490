"""A cell: one spec of a comparison, identified by a digest of everything that decides its result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dpft.compare.search_space import SearchSpace
from dpft.errors import UserError
from dpft.spec import Spec, canonical_json


@dataclass(frozen=True)
class Cell:
    """One spec of an arm. `arm` names what is compared; cells of an arm that differ in the seed alone are repeats.

    `trials`: the cell is the best run of a random search over hyper-parameters, and costs what the search costs.
    """

    arm: str
    spec: Spec
    trials: SearchSpace | None = None

    @property
    def digest(self) -> str:
        """sha256 of the serialised spec and search."""
        return digest_of(self.spec, self.trials)

    @property
    def epsilon(self) -> float | None:
        """Epsilon of the budget, None without privacy."""
        return None if self.spec.budget is None else self.spec.budget.epsilon

    @property
    def title(self) -> str:
        budget = "NOT PRIVATE" if self.epsilon is None else f"ε {self.epsilon:g}"
        return f"{self.spec.rows_name} {self.arm} {budget} seed {self.spec.seed}"

    def to_json(self) -> dict[str, Any]:
        search = None if self.trials is None else self.trials.to_json()
        return {"digest": self.digest, "arm": self.arm, "spec": self.spec.to_json(), "search": search}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """Inverse of `to_json`. Raises UserError, KeyError or TypeError on anything else."""
        search = values["search"]
        trials = None if search is None else SearchSpace.from_json(search)
        return cls(str(values["arm"]), Spec.from_json(values["spec"]), trials)


def digest_of(spec: Spec, trials: SearchSpace | None = None) -> str:
    """sha256 of the spec as requested. The recipe's choices follow from it, up to rounding on other machines."""
    search = None if trials is None else trials.to_json()
    return hashlib.sha256(canonical_json([spec.asked().to_json(), search]).encode()).hexdigest()


def check_distinct(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Return the cells. Raises UserError where there are none, or two are the same experiment."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        twin = seen.setdefault(cell.digest, cell)
        if twin is not cell:
            raise UserError(
                f"the cells of a comparison must differ, got {twin.title!r} twice; drop one of its methods, epsilons "
                "or seeds"
            )
    if not seen:
        raise UserError("a comparison must have at least one cell, got none; pass --methods and --epsilons")
    return tuple(seen.values())
