"""The result of an audit: checks, each a value with its acceptance interval, and one verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dpft.audit.evidence.noise_statistics import Measurement

Kind = Literal["fact", "statistic", "bound", "figure"]
Level = Literal["bookkeeping", "path", "model"]


@dataclass(frozen=True)
class Check:
    """`value` must lie within `low` and `high` (None: no limit).

    Kinds. fact: exact. statistic: a correct mechanism leaves the interval with the family's risk at most. bound: a
    lower bound on epsilon; `high` is the epsilon claimed for the attacked mechanism. figure: shown, cannot fail.
    private: computed on real rows without noise, so it is kept out of audit.json.
    """

    level: Level
    name: str
    value: float
    low: float | None
    high: float | None
    kind: Kind
    about: str = ""
    private: bool = False

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        above = self.low is None or self.value >= self.low
        below = self.high is None or self.value <= self.high
        return self.kind == "figure" or (above and below and not math.isnan(self.value))


def fact(level: Level, name: str, holds: bool, about: str = "") -> Check:
    """A statement that is true (1) or not (0)."""
    return Check(level, name, float(holds), 1, 1, "fact", about)


@dataclass(frozen=True)
class StatisticalTest:
    """A statistic or bound that is evaluated once its share of the risk is known."""

    name: str
    measure: Callable[[float], Measurement]
    about: str = ""
    kind: Kind = "statistic"


def bound(name: str, lower: Callable[[float], float], claimed: float, about: str) -> StatisticalTest:
    """A lower bound on epsilon, compared with the epsilon `claimed` for the attacked mechanism."""
    return StatisticalTest(name, lambda risk: Measurement(lower(risk), 0.0, claimed), about, "bound")


def evaluate_tests(level: Level, tests: Sequence[StatisticalTest], risk: float) -> list[Check]:
    """Evaluate all tests, each at an equal share of `risk` (Bonferroni).

    On a correct mechanism all pass with probability 1 - risk or more.
    """
    return [Check(level, t.name, *t.measure(risk / len(tests)), t.kind, t.about) for t in tests]


@dataclass(frozen=True)
class Report:
    """All checks of one audit. `confidence`: the smallest probability that a correct run passes."""

    run: str
    confidence: float
    claimed: float | None
    delta: float | None
    checks: tuple[Check, ...]
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def to_json(self, private: bool = False) -> dict[str, Any]:
        """A plain dict for audit.json and --json; `private` adds checks computed on real rows. Infinity is a string."""
        kept = [check for check in self.checks if private or not check.private]
        checks = [{**_fields(check), "passed": check.passed} for check in kept]
        verdict = "PASS" if self.passed else "FAIL"
        return {
            "run": self.run, "verdict": verdict, "confidence": self.confidence, "claimed_epsilon": self.claimed,
            "delta": self.delta, "seconds": self.seconds, "checks": checks,
        }  # fmt: skip

    def table(self) -> str:
        """One line a check: name, value, interval, verdict. Values of private checks are not shown."""
        rows = [("level", "check", "value", "must lie in", "")]
        rows += [
            (c.level, c.name, "in private/" if c.private else shown(c.value), interval(c), _mark(c))
            for c in self.checks
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def interval(check: Check) -> str:
    """The acceptance interval as text: `low .. high`, or one limit."""
    if check.kind == "fact" and check.low == check.high:
        return "true" if check.low == 1 else f"= {shown(check.low or 0.0)}"
    if check.kind == "bound":
        return f"<= {shown(check.high or 0.0)} (claimed)"
    if check.kind == "figure":
        return ""
    if check.low is None or check.low == 0:
        return f"<= {shown(check.high)}" if check.high is not None else ""
    return f"{shown(check.low)} .. {shown(check.high)}" if check.high is not None else f">= {shown(check.low)}"


def shown(value: float) -> str:
    """Six significant digits."""
    return f"{value:.6g}"


def _mark(check: Check) -> str:
    return "" if check.kind == "figure" else "pass" if check.passed else "FAIL"


def _fields(check: Check) -> dict[str, Any]:
    """The fields of a check; numbers that JSON lacks become strings."""
    odd = {
        name: str(value)
        for name, value in asdict(check).items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    return {**asdict(check), **odd}
