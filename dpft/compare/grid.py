"""A grid of methods, budgets and seeds, from flags or a TOML file, and its cells."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpft.compare.cells import Cell, check_distinct
from dpft.compare.search_space import search_space_around
from dpft.errors import UserError
from dpft.inference.inputs import load_task
from dpft.machine.memo import Memo
from dpft.spec import Budget, Machine, Spec, own_data_task
from dpft.training.preparation import choose_without_training, settled_spec

# Spec fields that a grid sets for all cells and an arm for its own; methods, epsilons and seeds decide the rest.
_ROWS = (
    "task", "data", "text", "pair", "prompt", "messages", "label", "validation", "kind", "labels", "unit",
    "max_per_unit", "class_weights", "shares",
)  # fmt: skip
COMMON = (
    *_ROWS, "model", "representation", "batch_size", "epochs", "learning_rate", "head_learning_rate", "schedule",
    "clip", "clipping", "optimizer", "warmup", "max_length", "max_windows", "token_loss",
)  # fmt: skip
_TOP = {"methods", "epsilons", "delta", "seeds"}
_ARM = {"method", "options", "search", "non_private"}


@dataclass(frozen=True)
class Arm:
    """One side of the comparison: a method with options, and its `changes` to the common spec.

    `non_private`: further changes for its cell without privacy, such as the learning rate.
    """

    name: str
    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    non_private: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """The Cartesian product of arms, epsilons and seeds.

    epsilons: infinity trains without privacy. trials: of each cell's random search, 0 for none. search_on: the public
    task that is searched on; None searches the cell's own rows, which is charged.
    """

    arms: tuple[Arm, ...]
    epsilons: tuple[float, ...]
    seeds: tuple[int, ...]
    delta: float | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0
    search_on: str | None = None
    search_data: str | None = None
    memo: Memo = field(default_factory=Memo)

    def cells(self) -> tuple[Cell, ...]:
        """All cells, ordered by seed. Raises UserError on an invalid combination."""
        return check_distinct(
            self._cell(arm, epsilon, seed) for seed in self.seeds for arm in self.arms for epsilon in self.epsilons
        )

    def _cell(self, arm: Arm, epsilon: float, seed: int) -> Cell:
        budget = None if epsilon == math.inf else Budget(epsilon, self._delta())
        free = arm.non_private if budget is None else {}
        values = {**self.common, **arm.changes, **free, "method": arm.method, "budget": budget, "seed": seed}
        spec = settled_spec(_spec(values))
        if not self.trials:
            return Cell(arm.name, spec)
        spec = choose_without_training(
            spec, load_task(spec, self.memo), Machine()
        )  # a search is centred on the recipe's choice
        return Cell(
            arm.name, spec, search_space_around(spec, self.trials, arm.search, self.search_on, self.search_data)
        )

    def _delta(self) -> float:
        if self.delta is None:
            raise UserError("a private cell needs a delta, got none; pass --delta 1e-6")
        return self.delta


def grid_from(values: Mapping[str, Any]) -> Grid:
    """The grid from the content of a TOML file, or from flags of the same names. Raises UserError on unknown keys."""
    known = {*_TOP, *COMMON}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(
            f"a grid's keys are {', '.join(sorted(known))}, got {', '.join(unknown)}; remove or rename them"
        )
    common = {name: values[name] for name in COMMON if name in values}
    if isinstance(common.get("labels"), list):
        common["labels"] = tuple(common["labels"])
    if "data" in common:
        common = {"task": own_data_task(common), **common}
    return Grid(
        tuple(_arms(values.get("methods"))),
        tuple(_epsilons(values.get("epsilons"))),
        tuple(_seeds(values.get("seeds", 1))),
        values.get("delta"),
        common,
    )


def read(file: Path) -> dict[str, Any]:
    """The content of a grid file. Raises UserError where it cannot be read."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--grid must name a TOML file, got {str(file)!r} ({type(error).__name__}); fix it") from None


def _arms(found: Any) -> list[Arm]:
    """`["slash", "lora"]`, or a table of names: `[methods.small]`, with `method = "slash"` where it is not the name."""
    if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
        return [Arm(name, name) for name in found]
    if not isinstance(found, dict) or not found:
        raise UserError(f"methods must be names or tables, got {found!r}; pass --methods slash,lora")
    return [_arm(name, table) for name, table in found.items()]


def _arm(name: str, table: Any) -> Arm:
    known = {*_ARM, *COMMON} - {*_ROWS}  # arms must share their rows to be comparable
    _check_keys(f"methods.{name}", table, known)
    free = table.get("non_private", {})
    _check_keys(f"methods.{name}.non_private", free, known - _ARM)
    changes = {key: value for key, value in table.items() if key not in ("method", "search", "non_private")}
    return Arm(name, table.get("method", name), changes, free, table.get("search", {}))


def _check_keys(name: str, table: Any, known: set[str]) -> None:
    unknown = sorted(set(table) - known) if isinstance(table, dict) else [repr(table)]
    if unknown:
        raise UserError(
            f"the keys of {name} are {', '.join(sorted(known))}, got {', '.join(unknown)}; remove or rename them"
        )


def _epsilons(found: Any) -> list[float]:
    every = found if isinstance(found, list) else [] if found is None else [found]
    values = [_epsilon(one) for one in every]
    if not values:
        raise UserError("epsilons must be given, got none; pass --epsilons 1,3,6.7,inf")
    return values


def _epsilon(found: Any) -> float:
    try:
        value = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not value > 0:
        raise UserError(f"an epsilon must be above 0, or inf for no privacy, got {found!r}; pass --epsilons 1,3,inf")
    return value


def _seeds(found: Any) -> Sequence[int]:
    """Seeds from 0 for a number, or the seeds themselves."""
    if isinstance(found, list) and found and all(isinstance(seed, int) for seed in found):
        return found
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"seeds must be a whole number above 0, or a list of seeds, got {found!r}; pass --seeds 3")
    return range(found)


def _spec(values: Mapping[str, Any]) -> Spec:
    try:
        return dataclasses.replace(Spec(), **values)
    except TypeError as error:  # a value of a type that cannot be compared with a number
        raise UserError(f"a grid's values must be of their spec's types, got another ({error}); fix the grid") from None
