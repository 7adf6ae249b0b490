"""Results of a comparison: mean and standard deviation over seeds, for each arm and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from dpft.compare.events import Outcome


@dataclass(frozen=True)
class ArmSummary:
    """Results of an arm at a budget over `n` seeds: mean, and standard deviation (None for one seed)."""

    task: str
    arm: str
    epsilon: float | None
    metric: str
    n: int
    mean: float
    sd: float | None
    trained: int
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lines(outcomes: Sequence[Outcome]) -> list[ArmSummary]:
    """One line for each arm and budget with a result, in the order of the cells."""
    groups: dict[tuple[str, str, float | None], list[Outcome]] = {}
    for one in outcomes:
        if one.result is not None:
            groups.setdefault((one.cell.spec.rows_name, one.cell.arm, one.cell.epsilon), []).append(one)
    return [_line(key, [one.result for one in group if one.result is not None]) for key, group in groups.items()]


def _line(key: tuple[str, str, float | None], results: Sequence[Any]) -> ArmSummary:
    values = [result.value for result in results]
    sd = stdev(values) if len(values) > 1 else None
    first = results[0]
    times = [result.seconds for result in results]
    took = None if None in times else mean(times)
    return ArmSummary(*key, first.metric, len(values), mean(values), sd, first.trainable, took)
