"""The recipe: batch, steps, clip and learning rates that nobody has to tune, from public numbers alone.

What is chosen here looks at no training row: at how many units there are, the budget, how fast this machine is where
a time is given, and at what made-up texts tell of the model (dpft.inference.drift). So it costs no privacy, and the
same numbers give the same recipe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dpft.errors import UserError
from dpft.spec import HEAD, Spec, steps_of

STEPS = 200  # of a private run, where the units are enough for it
LEAST_UNITS = 8
LEAST_STEPS = 20  # fewer teach nothing
BATCHES = (256, 2048)  # a private batch: at least, where there are as many; at most
MOST_RATE = 0.1  # of sampling: beyond it a larger batch buys less noise than it takes time
MOST_EPOCHS = 60.0
CLIP = 1.0  # below most gradients, as the head's input is about one long: how each points counts
FREE_HEAD = 5e-3  # the head's rate without privacy, at least
FREE_BATCH, FREE_STEPS, FREE_EPOCHS = 64, 1000, (3.0, 10.0)  # without privacy: batch, steps, epochs at least and most
DRIFT = 0.6  # of what the head reads, in its spread, by the noise of all steps
PROBE = 0.1  # what tolerances are measured at: small, so that they are of the model as it starts
_THIRD = 3.0  # of the steps count, where the rate falls in a line: the sum of its squares


@dataclass(frozen=True)
class Chosen:
    """A spec whose every number is settled, and a line of reason for each that the recipe chose."""

    spec: Spec
    reasons: tuple[str, ...] = ()


def planned(spec: Spec, units: int, *, speed: float | None = None, limit: float | None = None) -> Chosen:
    """`spec` with batch size, epochs and clip for `units` protected units. What was given stays as it is.

    speed: units a second of training, limit: seconds that it may take; both or none. Raises UserError where the time
    is too short for one step, or the epochs are given beside it.
    """
    if limit is not None and spec.epochs is not None:
        raise UserError(f"a time decides how many epochs there are, got {spec.epochs:g} of them too; drop one of both")
    if units < LEAST_UNITS and None in (spec.batch_size, spec.epochs):
        raise UserError(
            f"a recipe is for {LEAST_UNITS} examples or more, got {units}; with fewer the noise hides them all. "
            "Collect more, or pass --batch-size and --epochs"
        )
    reasons = []
    batch = spec.batch_size or _batch(spec, units)
    epochs = spec.epochs or _epochs(spec, units, batch)
    if limit is not None and speed is not None:
        batch, epochs = _within(spec, units, batch, epochs, speed * limit)
    steps = steps_of(dataclasses.replace(spec, batch_size=batch, epochs=epochs), units)
    if spec.batch_size is None:
        reasons.append(f"batch {batch}: {_why_batch(spec, units, batch)}")
    if spec.epochs is None:
        within = "" if limit is None else f", within {limit:.0f} s"
        reasons.append(f"epochs {epochs:g}: {steps} steps{within}; {_why_epochs(spec)}")
    clip = spec.clip
    if clip is None:
        clip = CLIP
        if spec.budget is not None:
            reasons.append(f"clip {CLIP:g}: below most gradients, so that each counts by where it points")
    return Chosen(_filled(spec, batch_size=batch, epochs=epochs, clip=clip), tuple(reasons))


def rated(
    spec: Spec, steps: int, tolerances: Mapping[str, float], *, drift: float, free_rate: float = 1e-3,
    scalable: bool = True,
) -> Chosen:  # fmt: skip
    """`spec` with the optimizer and the learning rates of a run of `steps`.

    `tolerances`: of each trained tensor (dpft.inference.drift), without the head's; empty where the head alone is
    trained. `drift`: of the outputs, by the head's noise of all steps. `free_rate`: the method's without privacy.
    `scalable`: gradients can be privatised in the optimizer's geometry.

    Adam turns noise into steps of about the rate: after all steps a coordinate has wandered by rate * sqrt(steps / 3),
    in a falling schedule. The rates are those at which all tensors together would move what the head reads by DRIFT;
    a tensor's is as the root of its tolerance, between equal rates, which do better where noise rules, and equal
    shares of the drift, which do better where it does not. Where the spec gives a rate, that is the rate of all.
    """
    spec, told = _optimizer(spec, scalable=scalable)
    if spec.learning_rate is not None:
        return Chosen(spec, told)
    if spec.budget is None:
        return _free(spec, free_rate, alone=not tolerances)
    wander = math.sqrt(max(1.0, steps / _THIRD))
    head = spec.head_learning_rate or _round(drift / wander)
    if not tolerances:
        why = f"learning rate {head:g}: over {steps} steps noise moves the outputs by {drift:g} at most"
        return Chosen(_filled(spec, learning_rate=head), (why, *told))
    shapes = {name: math.sqrt(size) for name, size in tolerances.items()}
    together = math.sqrt(sum((PROBE * shapes[name] / size) ** 2 for name, size in tolerances.items()))
    rates = {name: DRIFT * shape / (together * wander) for name, shape in shapes.items()}
    typical = _round(math.exp(sum(map(math.log, rates.values())) / len(rates)))
    scales = {name: _round(rate / typical) for name, rate in rates.items()}
    low, high = (f"{bound(rates.values()):.2g}" for bound in (min, max))
    reasons = (
        f"learning rate{f's {low} to {high}' if low != high else f' {low}'}: over {steps} steps noise moves what "
        f"the head reads by {DRIFT:g} of its spread (measured on made-up texts)",
        f"head's learning rate {head:g}: over {steps} steps noise moves the outputs by {drift:g}",
        *told,
    )
    filled = _filled(spec, learning_rate=typical, head_learning_rate=head)
    return Chosen(dataclasses.replace(filled, tensor_scales=scales), reasons)


def _optimizer(spec: Spec, *, scalable: bool) -> tuple[Spec, tuple[str, ...]]:
    """`spec` with an optimizer, and why."""
    if spec.optimizer is not None:
        return spec, ()
    if spec.budget is None or not scalable:
        return _filled(spec, optimizer="adam"), ()
    why = "optimizer adam_scaled: noise is larger where gradients were, so that small ones are heard too"
    return _filled(spec, optimizer="adam_scaled"), (why,)


def _filled(spec: Spec, **values: Any) -> Spec:
    """`spec` with the values that it lacks, which it names as chosen."""
    new: dict[str, Any] = {name: value for name, value in values.items() if getattr(spec, name) is None}
    return dataclasses.replace(spec, **new, chosen=(*spec.chosen, *new))


def _free(spec: Spec, rate: float, *, alone: bool) -> Chosen:
    """Rates without privacy: the method's own, and for the head beside it one at which it keeps up."""
    head = {} if alone else {"head_learning_rate": max(rate, FREE_HEAD)}
    return Chosen(_filled(spec, learning_rate=rate, **head), (f"learning rate {rate:g}: the method's without noise",))


def rates_of(spec: Spec, names: Iterable[str]) -> dict[str, float]:
    """The peak learning rate of each tensor by name, of a spec whose rates are settled."""
    assert spec.learning_rate is not None
    head = spec.head_learning_rate or spec.learning_rate
    scales = spec.tensor_scales or {}
    return {name: head if name.startswith(HEAD) else spec.learning_rate * scales.get(name, 1.0) for name in names}


def _batch(spec: Spec, units: int) -> int:
    if spec.budget is None:
        return min(units, FREE_BATCH)
    least, most = BATCHES
    return min(units, max(least, min(most, 1 << round(math.log2(max(1.0, MOST_RATE * units))))))


def _epochs(spec: Spec, units: int, batch: int) -> float:
    if spec.budget is None:
        least, most = FREE_EPOCHS
        return max(least, min(most, FREE_STEPS * batch / units))
    return min(MOST_EPOCHS, _round(STEPS * batch / units))


def _within(spec: Spec, units: int, batch: int, epochs: float, rows: float) -> tuple[int, float]:
    """Batch and epochs of at most `rows` rows in all.

    A smaller batch comes first: of the same rows, more steps learn more at about the same noise. Then fewer steps, but
    for too few, where the batch falls again.
    """
    if rows < 1 or (spec.batch_size is not None and rows < spec.batch_size):
        raise UserError(
            f"the time must be enough for one step, got one for {max(0, int(rows))} of its {batch} examples; "
            "pass a longer --time"
        )
    if epochs * units <= rows:
        return batch, epochs
    if spec.batch_size is None:
        steps = math.ceil(epochs * units / batch)
        batch = min(batch, max(min(BATCHES[0], batch), int(rows / steps)))
        batch = max(1, min(batch, int(rows / LEAST_STEPS)))
    exact = math.floor(rows / batch) * batch / units
    digit = 10.0 ** (math.floor(math.log10(exact)) - 5)
    return batch, float(f"{math.floor(exact / digit) * digit:.6g}")  # six digits, downward: not one step more


def _why_batch(spec: Spec, units: int, batch: int) -> str:
    if spec.budget is None:
        return "without noise many small steps learn more"
    return f"{batch / units:.3g} of {units} units a step; a larger one would take longer, a smaller one be noisier"


def _why_epochs(spec: Spec) -> str:
    if spec.budget is None:
        return "without noise"
    return "enough to learn in; more would take longer, and hardly lower the noise on their mean"


def _round(value: float) -> float:
    """Three digits: what a person reads and a file holds are one number."""
    return float(f"{value:.3g}")
