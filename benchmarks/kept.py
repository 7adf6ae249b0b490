"""Runs as lines of numbers that can be kept beside the code, and the table of what is kept.

    python -m dpft.benchmarks.kept FILE.jsonl… [--runs FOLDER…]

With --runs the only FILE is written anew from the finished runs in these folders: no path, no text, no identity. Then
the table of all files is printed: mean ± standard deviation over seeds (their number) of 100 times the metric.
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
from dpft.reports.frame import load_runs, records

from dpft.spec import UserError, rows_name

Row = dict[str, Any]
Column = tuple[str, str, float]  # task, metric, epsilon
SAME = ("method", "options", "representation", "batch_size", "epochs", "clip", "optimizer", "clipping", "average",
        "probe_first")  # fmt: skip
NUMBERS = ("seed", "learning_rate", "noise", "steps", "trainable", "metric", "value", "precision")


def main(
    files: Annotated[list[Path], typer.Argument(help="JSON lines.")],
    runs: Annotated[list[Path] | None, typer.Option(help="Write FILE anew from the runs in this folder.")] = None,
) -> None:
    """Keep runs as numbers, and print the table."""
    if runs and len(files) != 1:
        raise UserError(f"runs are kept in one file, got {len(files)}; name one")
    if runs:
        lines = [json.dumps(row, ensure_ascii=False) for row in kept(runs)]
        files[0].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(table([json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]))


def kept(folders: Iterable[Path]) -> list[Row]:
    """What finished runs are compared by; `epsilon` is the budget, None without one."""
    frame = load_runs(folders)
    return sorted(
        (_row(run) for run in records(frame[frame["state"] == "finished"])),
        key=lambda row: (row["task"], row["method"], _epsilon(row), json.dumps(row)),
    )


def _row(run: Row) -> Row:
    known = {name: _plain(run[name]) for name in (*SAME, *NUMBERS)}
    budget = {"epsilon": _plain(run["budget"]), "delta": _plain(run["delta"])}
    return {"task": rows_name(run["task"], run["data"]), **known, "options": json.loads(run["options"]), **budget}


def _epsilon(row: Row) -> float:
    return math.inf if row["epsilon"] is None else float(row["epsilon"])


def _plain(value: Any) -> Any:
    """Whole numbers as such, at most seven digits, None for what is not finite."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else float(f"{value:.7g}") if math.isfinite(value) else None


def table(rows: Sequence[Row]) -> str:
    """A method a line, and a column for each task and budget, as Markdown."""
    cells: dict[str, dict[Column, list[float]]] = defaultdict(lambda: defaultdict(list))
    tasks = [[row for row in rows if row["task"] == task] for task in {row["task"] for row in rows}]
    telling = [name for name in SAME if any(len({json.dumps(row[name]) for row in same}) > 1 for same in tasks)]
    for row in rows:
        said = [row["method"], *(_said(name, row[name]) for name in telling if name != "method")]
        column = (row["task"], row["metric"], _epsilon(row))
        cells[" ".join(filter(None, said))][column].append(100 * row["value"])
    columns = sorted({column for found in cells.values() for column in found})
    head = ["method", *(f"{t} {m}, {f'ε {e:g}' if math.isfinite(e) else 'none'}" for t, m, e in columns)]
    body = [[name, *(_shown(found[column]) for column in columns)] for name, found in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def _said(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={one}" for key, one in value.items())
    return f"{name}={value}"


def _shown(values: Sequence[float]) -> str:
    if not values:
        return "—"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({len(values)})"


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"kept: {error}", file=sys.stderr)
        sys.exit(2)
