"""Epsilon of a sequence of Poisson-sampled Gaussian steps; noise and sampling rate may differ between segments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dpft.errors import UserError
from dpft.privacy.accounting import isolated
from dpft.privacy.accounting.accountants import CLOSED_FORM, PLD, PRV, RDP, heterogeneous_prv
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.accounting.pld import heterogeneous_pld
from dpft.privacy.accounting.rdp import adaptive_rdp, heterogeneous_rdp
from dpft.privacy.accounting.rounding import StepGroup, attempt

NOISE_LIMITS = (1e-2, 1e6)
MOST_STEPS = 10**12
SECONDS = 30.0
_WAYS: dict[str, Callable[..., object]] = {PRV: heterogeneous_prv, PLD: heterogeneous_pld, RDP: heterogeneous_rdp}


@dataclass(frozen=True)
class Segment:
    """`steps` releases of a sum clipped to C, with Gaussian noise of deviation noise * C, at sampling rate `rate`."""

    noise: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        low, high = NOISE_LIMITS
        _require(_is_number(self.noise) and low <= self.noise <= high, f"noise must lie in {low:g} to {high:g}",
                 self.noise)  # fmt: skip
        _require(_is_number(self.rate) and 1e-9 <= self.rate <= 1, "rate must lie in 1e-09 to 1", self.rate)
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
        _require(whole and 1 <= self.steps <= MOST_STEPS, f"steps must be a whole number of 1 to {MOST_STEPS:.0e}",
                 self.steps)  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """`epsilon` from `accountant`. `bounds`: each accountant's bound, by name and version; None if it gave none."""

    epsilon: float
    accountant: str
    bounds: Mapping[str, float | None]


def epsilon_of(segments: Iterable[Segment], delta: float, seconds: float = SECONDS) -> Bound:
    """An upper bound on epsilon at `delta` of all the segments together, for adding or removing one unit.

    The result is the least of three bounds: PLD (connect-the-dots, pessimistic, the worse of adding and removing),
    RDP (both directions: Mironov et al. 2019, theorem 5), and the closed form as if every batch held all units (exact
    if each rate is 1; see `epsilon_gaussian`). PRV's upper end bounds removal only, and no theorem says that adding
    never costs more after composition; so it is reported but never lowers the result. But epsilon for removal is at
    least PRV's lower end, so a bound below that is refuted and dropped. The accountants run in parallel in separate
    processes; one that dies or does not answer within `seconds` is skipped. The result is never 0, and does not depend
    on the order of the segments. The steps may depend on earlier releases, but noise, rate and number of steps may
    not: for these see `epsilon_filter`. Raises UserError on values out of range.
    """
    _require(_is_number(delta) and 0 < delta < 1, "delta must lie between 0 and 1", delta)
    parts = _canonical(segments)
    closed = epsilon_gaussian(_total_noise(parts), 1, delta)
    if all(rate == 1 for _, rate, _ in parts):
        return Bound(closed, CLOSED_FORM, {CLOSED_FORM: closed})
    calls = {name: (f"{way.__module__}:{way.__name__}", [parts, delta]) for name, way in _WAYS.items()}
    found = isolated.run(calls, seconds)
    if found[RDP] is None:  # RDP is cheap and cannot hang, so the machine was too busy to start it
        found[RDP] = attempt(lambda: heterogeneous_rdp(parts, delta))
    prv = found.pop(PRV)
    bounds = {**found, CLOSED_FORM: closed}
    epsilon, name = _least(bounds, 0.0 if prv is None else prv[0])
    return Bound(epsilon, name, {PRV: None if prv is None else prv[1], **bounds})


def epsilon_filter(segments: Iterable[Segment], delta: float) -> float:
    """An upper bound on epsilon at `delta` that also holds if later segments were chosen after seeing earlier results.

    The RDP filter (Feldman and Zrnic 2021; Lecuyer 2021), over several orders at once: see `adaptive_rdp`. If training
    stops before this bound passes epsilon, everything released is (epsilon, delta)-DP; delta must be fixed beforehand.
    `epsilon_of` is lower, and holds for segments that were all planned before the first result was seen.
    """
    _require(_is_number(delta) and 0 < delta < 1, "delta must lie between 0 and 1", delta)
    return adaptive_rdp(_canonical(segments), delta)


def _least(bounds: Mapping[str, float | None], lower: float) -> tuple[float, str]:
    """The least bound that is not below `lower`, and its name; the largest bound if all are below it."""
    sound = sorted((epsilon, name) for name, epsilon in bounds.items() if epsilon is not None)
    return next((found for found in sound if found[0] >= lower), sound[-1])


def _canonical(segments: Iterable[Segment]) -> list[StepGroup]:
    """(noise, rate, steps), sorted, equal segments merged, all of rate 1 replaced by the Gaussian that they equal."""
    steps: dict[tuple[float, float], int] = {}
    for segment in segments:
        key = (float(segment.noise), float(segment.rate))
        steps[key] = steps.get(key, 0) + segment.steps
    _require(bool(steps), "segments must hold one at least", [])
    _require(sum(steps.values()) <= MOST_STEPS, f"all steps together must be at most {MOST_STEPS:.0e}", steps)
    sampled = [(noise, rate, count) for (noise, rate), count in sorted(steps.items()) if rate < 1]
    full = [(noise, 1.0, count) for (noise, rate), count in sorted(steps.items()) if rate == 1]
    return sampled + ([(_total_noise(full), 1.0, 1)] if full else [])


def _total_noise(parts: Iterable[StepGroup]) -> float:
    """The noise of the one Gaussian that all steps at rate 1 equal: 1 / total^2 = sum of steps / noise^2."""
    return 1 / math.sqrt(math.fsum(steps / noise**2 for noise, _, steps in parts))


def _require(ok: bool, rule: str, found: object) -> None:
    if not ok:
        raise UserError(f"{rule}, got {found!r}; give --segment NOISE:RATE:STEPS and --delta within them")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
