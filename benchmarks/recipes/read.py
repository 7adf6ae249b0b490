"""Read the recipes: one TOML file per table of the paper, and the hyper-parameters of tables 10 to 14."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from dpft.errors import UserError
from dpft.spec import Budget, Spec

TABLES = tuple(f"table{number}" for number in range(2, 10))
# Training rows of each task: from table 2 of the paper; for CoNLL-2003, of the release.
ROWS = {"mnli": 392_702, "qqp": 363_846, "qnli": 104_743, "sst2": 67_349, "cola": 8_551, "stsb": 5_749, "mrpc": 3_668,
        "rte": 2_490, "conll2003": 14_041}  # fmt: skip
METRIC = {"qqp": "f1", "mrpc": "f1", "cola": "matthews", "stsb": "pearson"}
_INIT = {"n": "normal", "u": "uniform"}
_NOT_PRIVATE: Mapping[str, Any] = {"batch_size": 8, "epochs": 5.0, "clip": 2.0, "schedule": "linear"}
_PRIVATE: Mapping[str, Any] = {"batch_size": 2048, "epochs": 20.0, "clip": 2.0, "schedule": "constant", "warmup": 0.0}


@dataclass(frozen=True)
class Recipe:
    """One experiment: a row and a column of a table. Figures are in per cent, except seconds and GB in table 5.

    `printed`: the paper's figure in `metric`; `other`: further figures beside it. `origin`: source of the
    hyper-parameters. `quoted`: source of the figure, if it is not the paper's own. `first`: the row to train on MNLI
    before.
    """

    table: str
    part: str
    row: str
    task: str
    spec: Spec
    metric: str
    printed: float
    origin: str
    spread: float | None = None
    seeds: int = 1
    quoted: str | None = None
    first: str | None = None
    other: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.table}{self.part} {self.row} {self.task}"

    @property
    def figures(self) -> int:
        """The number of figures of the paper that it covers."""
        return 1 + len(self.other)


@cache
def recipes(table: str) -> tuple[Recipe, ...]:
    """All recipes of a table, row by row. Raises UserError for an unknown table."""
    if table not in TABLES:
        close = difflib.get_close_matches(table, TABLES, n=1)
        hint = f"did you mean {close[0]}?" if close else "see dpft reproduce --list"
        raise UserError(f"a table must be one of {', '.join(TABLES)}, got {table!r}; {hint}")
    content = _read(table)
    return tuple(recipe for row in content["rows"] for recipe in _cells(table, {**content, **row}))


def only(every: Sequence[Recipe], words: str | None) -> list[Recipe]:
    """The recipes of the named methods, tasks and parts (comma-separated). Raises UserError for other words."""
    found = list(every)
    kinds: dict[str, Callable[[Recipe], str]] = {
        "method": lambda recipe: recipe.spec.method,
        "task": lambda recipe: recipe.task,
        "part": lambda recipe: recipe.part,
    }
    known = {kind: {of(recipe) for recipe in every} - {""} for kind, of in kinds.items()}
    chosen: dict[str, set[str]] = {}
    for word in [part.strip() for part in (words or "").split(",") if part.strip()]:
        kind = next((kind for kind, its in known.items() if word in its), None)
        if kind is None:
            all_known = ", ".join(sorted(set().union(*known.values())))
            raise UserError(f"--only names a method or task of the table ({all_known}), got {word!r}; fix it")
        chosen.setdefault(kind, set()).add(word)
    for kind, names in chosen.items():
        found = [recipe for recipe in found if kinds[kind](recipe) in names]
    if not found:
        raise UserError(f"--only must leave a cell of the table, got none for {words!r}; drop a word")
    return found


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / f"{name}.toml").read_text(encoding="utf-8"))


def _cells(table: str, row: Mapping[str, Any]) -> Iterator[Recipe]:
    for task, figure in row["figures"].items():
        values, origin = _settings(row, task)
        options = {**row.get("options", {})}
        if "init" in values:
            options = {"init": values.pop("init"), **options}
        spec = Spec(
            task=f"ner/{task}" if task == "conll2003" else f"glue/{task}", model=row["model"], method=row["method"],
            options=options, representation=row["representation"], budget=_budget(row, task), **values,
        )  # fmt: skip
        metric = row.get("metric", METRIC.get(task, "accuracy"))
        other = {name: of[task] for name, of in row.get("other", {}).items()}
        yield Recipe(
            table, row.get("part", ""), row["name"], task, spec, metric, figure, origin,
            row.get("spread", {}).get(task), row.get("seeds", 1), row.get("quoted"), row.get("first"), other,
        )  # fmt: skip


def _settings(row: Mapping[str, Any], task: str) -> tuple[dict[str, Any], str]:
    """The hyper-parameters of a recipe as Spec fields, and their source."""
    private = bool(row.get("private"))
    base = dict(_PRIVATE if private else _NOT_PRIVATE)
    if task == "conll2003":
        base["warmup"] = 0.1
    if "batch_size" in row:
        base["batch_size"] = row["batch_size"]
    if "ours" in row:
        return {**base, **row["ours"]}, "not printed; chosen here"
    source = row.get("hyper") or row["borrowed"]
    table, _, column = source.partition(".")
    init, rate, last = _read("hyperparameters")[table][column][task]
    found = {**base, "init": _INIT[init], "learning_rate": rate, "clip" if private else "epochs": float(last)}
    where = "appendix C" if table == "ner" else f"table {table.removeprefix('table')}"
    return found, where if "hyper" in row else f"not printed; those of {where}"


def _budget(row: Mapping[str, Any], task: str) -> Budget | None:
    if not row.get("private"):
        return None
    deltas = row["delta"]
    return Budget(row["epsilon"], deltas.get(task, 1e-6) if isinstance(deltas, dict) else deltas)
