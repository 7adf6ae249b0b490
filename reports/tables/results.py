"""Tables of the results of one setting: the metric, the gap to non-private runs, time and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpft.reports.reading import formatting
from dpft.reports.reading.cells import Cell, Series, Setting, best
from dpft.reports.reading.formatting import MISSING
from dpft.reports.reading.names import choices
from dpft.reports.tables.tables import Column, Table, Text

BOLD = "Bold: ahead of every other by more than both spreads together."
NOTHING = Text(MISSING)


def accuracy(setting: Setting) -> Table:
    """One row a series, one column an ε: mean ± standard deviation."""
    scale = formatting.scale(setting.facts["metric"])
    leaders = {budget: best(setting, budget) for budget in setting.budgets}
    rows = []
    for series in setting.series:
        cells = [series.at(budget) for budget in setting.budgets]
        found = [
            _value(setting, cell, leaders[budget] is series)
            for budget, cell in zip(setting.budgets, cells, strict=True)
        ]
        rows.append([Text(series.label), Text(formatting.count(_trainable(series)), _trainable(series)), *found])
    columns = [Column("method"), Column("parameters", True, "how many are trained")]
    columns += [Column(formatting.epsilon(budget), True, "the ε asked for: no unit") for budget in setting.budgets]
    return Table(
        "accuracy", f"{setting.facts['metric']} on the validation rows ({scale.unit})", columns, rows,
        f"{_repetitions(setting)} {BOLD}", [series.label for series in setting.series],
    )  # fmt: skip


def _value(setting: Setting, cell: Cell | None, leads: bool) -> Text:
    if cell is None:
        return NOTHING
    scale = formatting.scale(setting.facts["metric"])
    uneven = len({other.n for series in setting.series for other in series.cells}) > 1
    each = ", ".join(scale.show(value) for value in cell.values)
    return Text(
        scale.cell(cell) + (f" (n {cell.n})" if uneven else ""), cell.mean, leads,
        f"{formatting.plural(cell.n, 'run')}: {each}; ε proven {formatting.proven(cell.epsilon)}",
    )  # fmt: skip


def _repetitions(setting: Setting) -> str:
    cells = [cell for series in setting.series for cell in series.cells]
    if all(cell.n == 1 for cell in cells):
        return "One run a figure: no spread is known, and no method can be called better."
    return f"Mean ± standard deviation over {formatting.counts(cells)} that differ in their seed."


def _trainable(series: Series) -> int:
    return series.cells[0].trainable


@dataclass(frozen=True)
class Gap:
    """The cost of privacy: private minus non-private, and the spread of the difference (NaN where one is unknown)."""

    series: Series
    cell: Cell
    free: Cell
    twin: Series

    @property
    def value(self) -> float:
        return self.cell.mean - self.free.mean

    @property
    def spread(self) -> float:
        return math.hypot(self.cell.spread, self.free.spread)

    @property
    def apart(self) -> str:
        """Other differences of the non-private runs; empty where privacy is the only one."""
        one, other = choices(self.series.chosen), choices(self.twin.chosen)
        other = {**other, **self.twin.free}
        return ", ".join(f"{key} {other.get(key)}" for key in one if one.get(key) != other.get(key))


def gaps(setting: Setting) -> list[Gap]:
    """The gap of each private cell for which a non-private cell of its method exists."""
    found = []
    for series in setting.series:
        twin = _twin(series, setting)
        free = twin.at(math.inf) if twin else None
        if twin is not None and free is not None:
            found += [Gap(series, cell, free, twin) for cell in series.cells if cell.private]
    return found


def _twin(series: Series, setting: Setting) -> Series | None:
    """The series itself where it also ran without privacy; else the only one of its method that did."""
    if series.at(math.inf):
        return series
    others = [one for one in setting.series if one.method == series.method and one.at(math.inf)]
    return others[0] if len(others) == 1 else None


def gap(setting: Setting) -> Table | None:
    """Private minus non-private; None where nothing can be compared."""
    found = gaps(setting)
    if not found:
        return None
    scale = formatting.scale(setting.facts["metric"])
    budgets = [budget for budget in setting.budgets if math.isfinite(budget)]
    rows, labels = [], []
    for series in setting.series:
        own = {one.cell.budget: one for one in found if one.series is series}
        if own:
            first = next(iter(own.values()))
            base = scale.cell(first.free) + (f" (at {first.apart})" if first.apart else "")
            rows.append(
                [Text(series.label), Text(base, first.free.mean), *(_gap(own.get(b), setting) for b in budgets)]
            )
            labels.append(series.label)
    columns = [Column("method"), Column("without privacy", True)]
    columns += [Column(formatting.epsilon(budget), True, "the ε asked for: no unit") for budget in budgets]
    return Table(
        "gap", f"Private minus non-private {setting.facts['metric']} ({scale.apart})", columns, rows,
        "± the root of both variances: what lies within it is no difference.", labels,
    )  # fmt: skip


def _gap(one: Gap | None, setting: Setting) -> Text:
    if one is None:
        return NOTHING
    scale = formatting.scale(setting.facts["metric"])
    return Text(scale.difference(one.value, one.spread), one.value, hint=f"n {one.cell.n} and {one.free.n}")


@dataclass(frozen=True)
class Cost:
    """Mean seconds a step and peak MiB of cells, and the devices."""

    seconds: float
    memory: float
    where: str

    @classmethod
    def of(cls, cells: list[Cell]) -> Cost:
        runs = sum(cell.n for cell in cells)
        spent = sum(cell.step_seconds * cell.n for cell in cells)
        known = [cell.memory_mib for cell in cells if math.isfinite(cell.memory_mib)]
        where = ", ".join(sorted({cell.where for cell in cells}))
        return cls(spent / runs if runs else math.nan, max(known, default=math.nan), where)


def costs(setting: Setting) -> list[tuple[Series, Cost, Cost]]:
    """(series, private cost, non-private cost) of each series."""
    return [
        (series, Cost.of([c for c in series.cells if c.private]), Cost.of([c for c in series.cells if not c.private]))
        for series in setting.series
    ]


def cost(setting: Setting) -> Table:
    """Step time and peak memory, as in table 5 of Gupta et al. 2023."""
    found = costs(setting)
    slowest = max((x for _, *both in found for c in both if math.isfinite(x := c.seconds)), default=0.0)
    largest = max((x for _, *both in found for c in both if math.isfinite(x := c.memory)), default=0.0)
    rows = []
    for series, private, free in found:
        same = private.where == free.where and free.seconds > 0
        ratio = private.seconds / free.seconds if same else math.nan
        rows.append([
            Text(series.label), *(_bar(formatting.seconds(c.seconds), c.seconds, slowest) for c in (private, free)),
            Text(MISSING if math.isnan(ratio) else f"{ratio:.2f} ×", ratio),
            *(_bar(formatting.count(c.memory), c.memory, largest) for c in (private, free)),
            Text("; ".join(filter(None, dict.fromkeys((private.where, free.where))))),
        ])  # fmt: skip
    columns = [
        Column("method"), Column("s a step, private", True, "seconds of training over steps"),
        Column("not private", True, "the same"), Column("ratio", True, "of the two"),
        Column("MiB, private", True, "peak memory"), Column("not private", True, "peak memory"), Column("on"),
    ]  # fmt: skip
    return Table(
        "cost", "Step time and peak memory", columns, rows,
        "Seconds are a run's whole seconds over its steps; other work on the machine adds to them. Memory: of the "
        "device's tensors on a GPU, of the whole process on a CPU.", [series.label for series, *_ in found],
    )  # fmt: skip


def _bar(shown: str, value: float, most: float) -> Text:
    return Text(shown, value, share=value / most if most > 0 and math.isfinite(value) else None)
