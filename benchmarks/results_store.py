"""Store the results of runs as JSON lines beside the code, and print them as a table.

    python -m dpft.benchmarks.results_store FILE.jsonl… [--runs FOLDER]…

With --runs, the single FILE is rewritten from the finished runs in these folders, without paths, texts and run ids.
Then a table of all files is printed: 100 times the metric (losses as they are), as mean ± standard deviation (number of
seeds), over runs that differ only in their seeds.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from dpft.reports.reading.frame import load_runs, records

from dpft import objectives
from dpft.errors import UserError
from dpft.runs.folder import write
from dpft.spec import rows_name

Row = dict[str, Any]
Column = tuple[str, str, float, float]  # task, metric, epsilon, delta
SAME = ("method", "options", "model", "representation", "batch_size", "epochs", "schedule", "warmup", "clip",
        "optimizer", "clipping", "max_length", "unit", "precision")  # fmt: skip
NUMBERS = ("seed", "learning_rate", "head_learning_rate", "noise", "steps", "trainable", "metric", "value")


def main(
    files: Annotated[list[Path], typer.Argument(help="JSON lines.")],
    runs: Annotated[list[Path] | None, typer.Option(help="Rewrite FILE from the runs in this folder.")] = None,
) -> None:
    """Store results of runs, and print the table."""
    if runs and len(files) != 1:
        raise UserError(f"runs are stored in one file, got {len(files)}; name one")
    if runs:
        rows = kept(runs)
        if not rows:
            raise UserError("there must be a finished run with a result to store, got none; pass --runs of one")
        write(files[0], "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
    print(table([row for file in files for row in read(file)]))


def read(file: Path) -> list[Row]:
    """Read stored results. Raises UserError."""
    try:
        return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"stored results must be JSON lines, got {type(error).__name__} at {str(file)!r}; restore it"
        ) from None


def kept(folders: Iterable[Path]) -> list[Row]:
    """The rows to store for finished runs with a result. `epsilon`: of the budget, None without one."""
    frame = load_runs(folders)
    return sorted(
        (_row(run) for run in records(frame[(frame["state"] == "finished") & frame["value"].notna()])),
        key=lambda row: (row["task"], row["method"], _epsilon(row), json.dumps(row)),
    )


def _row(run: Row) -> Row:
    known = {name: _plain(run[name]) for name in (*SAME, *NUMBERS)}
    budget = {"epsilon": _plain(run["budget"]), "delta": _plain(run["delta"])}
    own = {"task": rows_name(run["task"], run["data"]), "model": Path(run["model"]).name}
    return {**own, **{k: v for k, v in known.items() if k not in own}, "options": json.loads(run["options"]), **budget}


def _epsilon(row: Row) -> float:
    return math.inf if row["epsilon"] is None else float(row["epsilon"])


def _plain(value: Any) -> Any:
    """A number for JSON: whole numbers as int, at most seven digits, None if not finite."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else float(f"{value:.7g}") if math.isfinite(value) else None


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with one line per method and one column per task and budget."""
    cells: dict[str, dict[Column, list[float]]] = defaultdict(lambda: defaultdict(list))
    tasks = [[row for row in rows if row["task"] == task] for task in {row["task"] for row in rows}]
    telling = [name for name in SAME if any(len({json.dumps(row[name]) for row in same}) > 1 for same in tasks)]
    tried = defaultdict(set)  # without privacy a method has its own learning rates
    for row in rows:
        tried[row["task"], row["method"], row["epsilon"] is None].add(_rates(row))
    several = {method for (_, method, _), rates in tried.items() if len(rates) > 1}
    for row in rows:
        said = [row["method"], *(_said(name, row[name]) for name in telling if name != "method")]
        said += _rates(row) if row["method"] in several else []
        column = (row["task"], row["metric"], _epsilon(row), row["delta"] or 0.0)
        cells[" ".join(filter(None, said))][column].append(_factor(row["metric"]) * row["value"])
    columns = sorted({column for found in cells.values() for column in found})
    body = [[name, *(_shown(found[column]) for column in columns)] for name, found in cells.items()]
    lines = (["method", *map(_titled, columns)], ["---"] * (1 + len(columns)), *body)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _titled(column: Column) -> str:
    task, metric, epsilon, delta = column
    budget = f"ε {epsilon:g}, δ {delta:g}" if math.isfinite(epsilon) else "none"
    return f"{task} {metric}, {budget}"


def _rates(row: Row) -> tuple[str, ...]:
    """The learning rate, and the head's if it has its own; older files do not have that field."""
    names = ("learning_rate", "head_learning_rate")
    return tuple(_said(name, row[name]) for name in names if row.get(name) is not None)


def _said(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={one}" for key, one in value.items())
    return f"{name}={value}"


def _shown(values: Sequence[float]) -> str:
    if not values:
        return "—"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({len(values)})"


def _factor(metric: str) -> int:
    """100 for shares; 1 for metrics that are better when lower."""
    known = (one for kind in objectives.every() for one in (*kind.metrics, *kind.further))
    return 1 if any(one.name == metric and not one.higher_is_better for one in known) else 100


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"kept: {error}", file=sys.stderr)
        sys.exit(2)
