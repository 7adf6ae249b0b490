"""Epsilon by every accountant, with its seconds, over easy and hard settings, and the chosen bound.

python -m dpft.benchmarks.accountants [--json]
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dpft.privacy.accounting.accountants import CLOSED_FORM, PLD, PRV, RDP, heterogeneous_prv
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.accounting.pld import heterogeneous_pld
from dpft.privacy.accounting.rdp import heterogeneous_rdp
from dpft.privacy.accounting.rounding import StepGroup, attempt
from dpft.privacy.accounting.segments import Segment, epsilon_of

SHORT = {"PRV": PRV, "PLD": PLD, "RDP": RDP, "closed form": CLOSED_FORM}
Setting = tuple[tuple[StepGroup, ...], float]  # parts of (noise, rate, steps), delta

ORDINARY: tuple[Setting, ...] = (
    (((0.643, 2048 / 392702, 3820),), 1e-6),  # the four of the paper's table
    (((0.651, 2048 / 363846, 3540),), 1e-6),
    (((0.831, 2048 / 104743, 1020),), 1e-6),
    (((0.925, 2048 / 67349, 640),), 1e-6),
    (((1.0, 0.01, 1000),), 1e-5),
    (((2.0, 0.05, 5000),), 1e-6),
    (((5.0, 0.1, 2000),), 1e-8),
    (((0.6, 0.001, 10_000),), 1e-7),
)
HARD: tuple[Setting, ...] = (
    (((0.3, 1e-6, 1),), 1e-15),
    (((0.3, 1e-6, 10**6),), 1e-2),
    (((0.3, 1e-3, 10**6),), 1e-2),
    (((0.3, 0.5, 1),), 1e-15),
    (((0.3, 0.5, 10**6),), 1e-2),
    (((0.3, 0.999999, 10**6),), 1e-15),
    (((1.1, 2.65e-6, 10**6),), 2e-4),
    (((0.8, 1e-4, 10**6),), 1e-8),
    (((6.57, 0.01, 10**6),), 1e-6),
    (((30.0, 0.9, 10**5),), 1e-12),
    (((100.0, 1e-6, 1),), 1e-2),
    (((100.0, 1e-3, 10**6),), 1e-15),
    (((100.0, 0.5, 10**6),), 1e-2),
    (((100.0, 0.07, 1),), 3e-12),
    (((2.18, 1e-3, 10**7),), 1e-6),
)
MIXED: tuple[Setting, ...] = (
    (((4.0, 1.0, 50),), 1e-6),  # full batches
    (((0.9, 0.03, 200), (1.5, 0.1, 60), (6.0, 1.0, 1)), 1e-6),
    (((20.0, 0.5, 1000), (0.7, 0.001, 5000)), 1e-7),
    (((0.5, 1e-4, 10**5), (50.0, 0.9, 10**4), (5.0, 1.0, 10)), 1e-9),
)


def measure(setting: Setting) -> dict[str, Any]:
    """Bound and seconds of each accountant in this process, and of `epsilon_of`."""
    parts, delta = setting
    ways: dict[str, Callable[[], float]] = {
        PRV: lambda: heterogeneous_prv(parts, delta)[1],
        PLD: lambda: heterogeneous_pld(parts, delta),
        RDP: lambda: heterogeneous_rdp(parts, delta),
        CLOSED_FORM: lambda: epsilon_gaussian(sum(k / noise**2 for noise, _, k in parts) ** -0.5, 1, delta),
    }
    found = {name: _timed(lambda way=way: attempt(way)) for name, way in ways.items()}  # type: ignore[misc]
    answer, seconds = _timed(lambda: epsilon_of([Segment(*part) for part in parts], delta))
    return {"parts": parts, "delta": delta, "bounds": found, "epsilon": answer.epsilon, "by": answer.accountant,
            "seconds": seconds}  # fmt: skip


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def _row(found: dict[str, Any]) -> str:
    parts = " + ".join(f"{noise:g}:{rate:.4g}:{steps}" for noise, rate, steps in found["parts"])
    bounds = (f"{'none' if e is None else f'{e:.6g}'} ({s:.1f} s)" for e, s in found["bounds"].values())
    taken = next(short for short, name in SHORT.items() if name == found["by"])
    answer = f"{found['epsilon']:.6g} {taken} ({found['seconds']:.1f} s)"
    return f"| {parts} | {found['delta']:g} | {' | '.join(bounds)} | {answer} |"


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print every accountant's upper bound on epsilon, and its seconds, over easy and hard settings."""
    settings = (*ORDINARY, *HARD, *MIXED)
    if as_json:
        print(json.dumps([measure(setting) for setting in settings]))
        return
    print(f"| noise:rate:steps | δ | {' | '.join(SHORT)} | taken |\n|{' --- |' * 7}")
    for setting in settings:
        print(_row(measure(setting)), flush=True)


if __name__ == "__main__":
    typer.run(main)
