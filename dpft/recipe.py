"""The recipe: batch size, steps, clipping norm, optimizer and learning rates without tuning, from public numbers alone.

The recipe uses the number of units, the budget, the speed of this machine (if the time is limited) and measurements of
the model on synthetic texts (dpft.inference.drift). It reads no training row, so it costs no privacy, and the same
inputs give the same recipe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dpft.errors import UserError
from dpft.spec import HEAD, Spec, steps_of

STEPS = 200  # of a private run with enough units
LEAST_UNITS = 8
LEAST_STEPS = 20  # with fewer the model learns nothing
BATCHES = (256, 2048)  # least and most units in a private batch (fewer if there are fewer units)
MOST_RATE = 0.1  # sampling rate: above it a larger batch costs more time than it saves noise
MOST_EPOCHS = 60.0
CLIP = 1.0  # below most gradient norms (the head's input has about norm 1), so that directions count
FREE_HEAD = 5e-3  # least learning rate of the head without privacy
FREE_BATCH, FREE_STEPS, FREE_EPOCHS = 64, 1000, (3.0, 10.0)  # without privacy: batch, steps, least and most epochs
DRIFT = 0.6  # how far the noise of all steps may move the head's input, in units of its spread
PROBE = 0.1  # the drift at which tolerances are measured: small, so that they describe the initial model
_THIRD = 3.0  # with linear decay, the squared rates sum to a third of the steps


@dataclass(frozen=True)
class Choice:
    """A spec with the values that the recipe chose, and one line of reason for each."""

    spec: Spec
    reasons: tuple[str, ...] = ()


def choose_schedule(spec: Spec, units: int, *, speed: float | None = None, limit: float | None = None) -> Choice:
    """Choose batch size, epochs and clipping norm for `units` units. Values that the spec sets are kept.

    speed: training speed in units per second; limit: seconds that training may take. Both or none. Raises UserError if
    there are too few units, if the time is too short for one step, or if both epochs and a time are set.
    """
    if limit is not None and spec.epochs is not None:
        raise UserError(f"a time limit decides the number of epochs, got {spec.epochs:g} epochs too; drop one of both")
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
    return Choice(_filled(spec, batch_size=batch, epochs=epochs, clip=clip), tuple(reasons))


def choose_rates(
    spec: Spec, steps: int, tolerances: Mapping[str, float], *, drift: float | None, free_rate: float = 1e-3,
    scalable: bool = True,
) -> Choice:  # fmt: skip
    """Choose the optimizer and the learning rates for a run of `steps`.

    tolerances: of each trainable tensor except the head's (dpft.inference.drift); empty if only the head is trained, or
    without privacy. drift: how far the head's noise of all steps may move the outputs; None if the model has no head
    beside other tensors. free_rate: the method's learning rate without privacy. scalable: gradients can be privatised
    in the optimizer's geometry.

    Adam turns noise into steps of about the learning rate: with a decaying schedule, a coordinate wanders by
    rate * sqrt(steps / 3) over all steps. The rates are chosen so that all tensors together would move the head's
    input by DRIFT. Each tensor's rate is proportional to the square root of its tolerance: between equal rates, which
    do better if noise dominates, and equal shares of the drift, which do better if it does not. If the spec sets a
    learning rate, it is kept.
    """
    spec, why = _optimizer(spec, scalable=scalable)
    if spec.learning_rate is not None:
        return Choice(spec, why)
    if spec.budget is None:
        head = {} if drift is None else {"head_learning_rate": max(free_rate, FREE_HEAD)}
        reason = f"learning rate {free_rate:g}: the default without noise"
        return Choice(_filled(spec, learning_rate=free_rate, **head), (reason,))
    wander = math.sqrt(max(1.0, steps / _THIRD))
    if not tolerances:
        assert drift is not None
        rate = _round(drift / wander)
        moves = f"learning rate {rate:g}: over {steps} steps noise moves the outputs by {drift:g} at most"
        return Choice(_filled(spec, learning_rate=rate), (moves, *why))
    spec, reasons = _rates_by_tolerance(spec, steps, wander, tolerances)
    if drift is not None:
        rate = spec.head_learning_rate or _round(drift / wander)
        reasons += (f"head's learning rate {rate:g}: over {steps} steps noise moves the outputs by {drift:g}",)
        spec = _filled(spec, head_learning_rate=rate)
    return Choice(spec, (*reasons, *why))


def _rates_by_tolerance(
    spec: Spec, steps: int, wander: float, tolerances: Mapping[str, float]
) -> tuple[Spec, tuple[str, ...]]:
    """`spec` with a typical learning rate and each tensor's factor on it, and the reason."""
    shapes = {name: math.sqrt(size) for name, size in tolerances.items()}
    together = math.sqrt(sum((PROBE * shapes[name] / size) ** 2 for name, size in tolerances.items()))
    rates = {name: DRIFT * shape / (together * wander) for name, shape in shapes.items()}
    typical = _round(math.exp(sum(map(math.log, rates.values())) / len(rates)))
    scales = {name: _round(rate / typical) for name, rate in rates.items()}
    low, high = (f"{bound(rates.values()):.2g}" for bound in (min, max))
    reason = (
        f"learning rate{f's {low} to {high}' if low != high else f' {low}'}: over {steps} steps noise moves the "
        f"last layer's output by {DRIFT:g} of its spread (measured on synthetic texts)"
    )
    return dataclasses.replace(_filled(spec, learning_rate=typical), tensor_scales=scales), (reason,)


def _optimizer(spec: Spec, *, scalable: bool) -> tuple[Spec, tuple[str, ...]]:
    """`spec` with an optimizer, and the reason if the recipe chose it."""
    if spec.optimizer is not None:
        return spec, ()
    if spec.budget is None or not scalable:
        return _filled(spec, optimizer="adam"), ()
    why = "optimizer adam_scaled: coordinates with larger gradients get more noise, so that small ones count too"
    return _filled(spec, optimizer="adam_scaled"), (why,)


def _filled(spec: Spec, **values: Any) -> Spec:
    """`spec` with `values` in fields that are None; `chosen` names them."""
    new: dict[str, Any] = {name: value for name, value in values.items() if getattr(spec, name) is None}
    return dataclasses.replace(spec, **new, chosen=(*spec.chosen, *new))


def learning_rates(spec: Spec, names: Iterable[str]) -> dict[str, float]:
    """The peak learning rate of each tensor by name. The spec's learning rate must be set."""
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
    """Batch size and epochs that process at most `rows` units in all. Raises UserError if that is less than one batch.

    The batch shrinks first: with the same number of units, more steps learn more at about the same noise. Then the
    number of steps shrinks, down to LEAST_STEPS; below that the batch shrinks again.
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
        return "without noise, many small steps learn more"
    return f"{batch / units:.3g} of {units} units a step; a larger one takes longer, a smaller one is noisier"


def _why_epochs(spec: Spec) -> str:
    if spec.budget is None:
        return "without noise"
    return "enough to learn; more would take longer and hardly reduce the noise of their mean"


def _round(value: float) -> float:
    """Round to three digits, so that the printed and the stored number are the same."""
    return float(f"{value:.3g}")
