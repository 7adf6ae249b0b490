"""What each option is worth: metric with and without it, everything else equal, over tasks, ε and seeds.

    python -m dpft.benchmarks.accuracy --data DIR --to FILE.jsonl --options optimizer=adam_bc,average=tail:0.5

An option is a field of Spec and its value, `options.NAME=VALUE` one of the method's; `+` joins several. Each finished
cell is a line of FILE; cells that are there are skipped, so that a grid goes on where it was broken off. An average is
judged on the weights of the very run that is judged without it, where both are asked for at once. The base is Spec's
defaults but for --set, and for a batch of about an eighth of the rows. Seeds decide initialisation; the noise is the
operating system's, as in training.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from dpft.benchmarks._cells import Bench

from dpft import methods
from dpft.preparing import with_own_rates
from dpft.spec import Budget, Machine, Spec, UserError

BASE = "base"
Row = dict[str, Any]


def main(
    data: Annotated[Path, typer.Option(help="Holds glue/NAME and sms_spam.")],
    to: Annotated[Path, typer.Option(help="JSON lines; finished cells in it are skipped.")],
    tasks: str = "sst2,rte,cola,sms",
    epsilons: str = "1,3,6.7",
    delta: float = 1e-5,
    seeds: int = 3,
    options: Annotated[str, typer.Option(help="NAME=VALUE[+NAME=VALUE…], by commas.")] = "",
    setting: Annotated[str, typer.Option("--set", help="The same for the base.")] = "epochs=10",
    examples: Annotated[int | None, typer.Option(help="So many training rows at most.")] = None,
    precision: str = "auto",
    only_table: Annotated[bool, typer.Option("--only-table", help="Measure nothing.")] = False,
) -> None:
    """Measure what is missing in FILE, then print the table of all that is there."""
    rows = _read(to)
    if not only_table:
        for name in tasks.split(","):
            bases = [
                base_of(name, data, setting, Budget(float(epsilon), delta), seed)
                for seed in range(seeds)
                for epsilon in epsilons.split(",")
            ]
            measure(bases, [o for o in options.split(",") if o], examples, _machine(precision), rows, to)
    print(table(rows))


def base_of(task: str, data: Path, setting: str, budget: Budget, seed: int) -> Spec:
    """The spec that options change. Its batch is settled when the number of rows is known."""
    folder = data / "sms_spam" if task == "sms" else data / "glue" / task
    name = task if task == "sms" else f"glue/{task}"
    return changed(Spec(task=name, data=str(folder), budget=budget, seed=seed), setting)


def measure(
    bases: Sequence[Spec], options: Sequence[str], examples: int | None, machine: Machine, rows: list[Row], to: Path
) -> None:
    """Train every cell that `rows` lacks, and append it to both."""
    wanted = {_key(cell_row(base, option, examples)): (base, option) for base in bases for option in [BASE, *options]}
    for row in rows:
        wanted.pop(_key(row), None)
    if not wanted:
        return
    bench = Bench(bases[0], examples, machine)
    for (base, option), together in runs(list(wanted.values())):
        spec = settled(changed(base, option), option, len(bench.task.train))
        for average, found in bench.cell(spec, list(together)):
            row = {
                **cell_row(base, together[average], examples), "metric": bench.task.metric,
                "value": round(found.value, 5), "rows": len(bench.task.train), "batch": spec.batch_size,
                "steps": found.plan.steps, "noise": round(found.plan.noise, 4), "clip": spec.clip,
                "learning_rate": spec.learning_rate, "precision": bench.hardware.precision,
                "seconds": round(found.seconds, 1),
            }  # fmt: skip
            rows.append(row)
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("a") as file:
                file.write(json.dumps(row) + "\n")


def runs(cells: Iterable[tuple[Spec, str]]) -> Iterator[tuple[tuple[Spec, str], dict[str, str]]]:
    """Cells that differ in their average alone are one run: (the first of them, {average: its option})."""
    found: dict[str, tuple[tuple[Spec, str], dict[str, str]]] = {}
    for base, option in cells:
        spec = changed(base, option)
        plain = json.dumps([dataclasses.replace(spec, average="none").to_json(), "batch_size=" in option])
        found.setdefault(plain, ((base, option), {}))[1][spec.average] = option
    yield from found.values()


def changed(base: Spec, option: str) -> Spec:
    """`base` with NAME=VALUE+NAME=VALUE changed. Raises UserError."""
    if option in ("", BASE):
        return base
    values: dict[str, Any] = {}
    known = {f.name: type(f.default) for f in dataclasses.fields(Spec)}
    for part in option.split("+"):
        name, _, value = part.partition("=")
        if name.startswith("options."):
            values["options"] = {**values.get("options", base.options), name.removeprefix("options."): value}
            continue
        if name not in known or not value:
            raise UserError(f"an option must be NAME=VALUE with a field of Spec, got {part!r}; pass average=tail:0.5")
        numeric = float if name in ("learning_rate", "head_learning_rate") else known[name]
        try:
            values[name] = numeric(value) if numeric in (int, float) else value
        except ValueError:
            raise UserError(f"{name} must be a number, got {value!r}; mend --options") from None
    return dataclasses.replace(base, **values)


def settled(spec: Spec, option: str, examples: int) -> Spec:
    """With the method's own learning rates, and the power of two below an eighth of the rows as its batch."""
    spec = with_own_rates(spec, methods.load(spec.method, spec.options))
    batch = spec.batch_size if "batch_size=" in option else min(Spec.batch_size, 2 ** int(np.log2(examples / 8)))
    return dataclasses.replace(spec, batch_size=batch)


def cell_row(base: Spec, option: str, examples: int | None) -> Row:
    """What names a cell."""
    assert base.budget is not None
    usual = Spec().to_json()
    setting = {k: v for k, v in base.to_json().items() if v != usual.get(k) and k not in _NAMED}
    return {
        "task": base.task.rpartition("/")[2], "method": base.method, "epsilon": base.budget.epsilon,
        "delta": base.budget.delta, "seed": base.seed, "option": option, "examples": examples, "set": setting,
    }  # fmt: skip


_NAMED = ("task", "data", "method", "budget", "seed")


def _key(row: Row) -> str:
    names = ("task", "method", "epsilon", "delta", "seed", "option", "examples", "set")
    return json.dumps([row[name] for name in names], sort_keys=True)


def _read(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _machine(precision: str) -> Machine:
    values: dict[str, Any] = {"precision": precision}
    return Machine(**values)


def table(rows: Sequence[Row]) -> str:
    """Mean, deviation and difference to the base of the same task, method, ε and seeds, an option a line."""
    cells: dict[tuple[Any, ...], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        group = (row["task"], row["method"], json.dumps(row["set"]), row["rows"], row["epsilon"], row["metric"])
        cells[group][row["option"]][row["seed"]] = row["value"]
    lines = []
    for (task, method, setting, count, epsilon, metric), options in cells.items():
        lines.append(f"{task} ({count} rows, {metric}), {method} {setting}, ε = {epsilon:g}")
        lines += [_line(option, found, options.get(BASE, {})) for option, found in options.items()]
    return "\n".join(lines)


def _line(option: str, found: dict[int, float], base: dict[int, float]) -> str:
    values = 100 * np.array(list(found.values()))
    pairs = 100 * np.array([value - base[seed] for seed, value in found.items() if seed in base])
    text = f"  {option:44} {values.mean():6.2f} ± {_spread(values)}  n {len(values)}"
    return text if option == BASE or not len(pairs) else f"{text}   {pairs.mean():+6.2f} ± {_spread(pairs)}"


def _spread(values: Any) -> str:
    return f"{values.std(ddof=1):5.2f}" if len(values) > 1 else "    -"


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        sys.exit(2)
