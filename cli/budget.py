"""dpft budget: which noise a budget needs."""

from __future__ import annotations

from typing import Annotated

import typer
from dpft.cli import _flags, _show

from dpft.spec import Budget, Spec


def budget(
    examples: Annotated[int, typer.Option(help="Training examples.", show_default=False)],
    epsilon: Annotated[float, typer.Option(help="The most ε the run may spend.", show_default=False)],
    delta: Annotated[float, typer.Option(help="The δ that goes with it.", show_default=False)],
    batch_size: Annotated[int, typer.Option(help="Expected examples per step.")] = Spec.batch_size,
    epochs: Annotated[float, typer.Option(help="Expected passes over the data.")] = Spec.epochs,
    clip: Annotated[float, typer.Option(help="Longest gradient of one example.")] = Spec.clip,
    as_json: _flags.Json = False,
) -> None:
    """Say which noise, rate and steps a budget means, without touching any data."""
    from dpft.card import rounded_up
    from dpft.privacy.plan import make_plan

    spec = Spec(budget=Budget(epsilon, delta), batch_size=batch_size, epochs=epochs, clip=clip)
    plan = make_plan(spec, examples)
    if as_json:
        _show.print_json(plan.to_json())
        return
    print(f"budget    ε {epsilon:g}, δ {delta:g}, for adding or removing one example")
    print(f"noise     σ {plan.noise:.5f} (times the clip C {clip:g}, on the sum of a batch)")
    print(f"sampling  Poisson at q {plan.rate:.6f}: {batch_size} of {examples} examples expected a step")
    print(f"steps     {plan.steps} ({epochs:g} epochs)")
    print(f"ε spent   at most {rounded_up(plan.epsilon_upper or 0.0)}, upper bound by {plan.accountant}")
