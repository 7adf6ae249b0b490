"""dpft budget: the noise multiplier that a budget needs, and the inverse questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError
from dpft.recipe import choose_schedule
from dpft.spec import Budget, Spec

T = TypeVar("T")

if TYPE_CHECKING:
    from dpft.privacy.accounting.segments import Bound, Segment
    from dpft.privacy.mechanism.plan import Plan
    from dpft.privacy.mechanism.tradeoffs import Alternative


def budget(
    examples: Annotated[int | None, typer.Option(help="Training examples.", show_default=False)] = None,
    epsilon: Annotated[float | None, typer.Option(help="The most ε the run may spend.", show_default=False)] = None,
    delta: Annotated[float | None, typer.Option(help="The δ that goes with it.", show_default=False)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Expected examples per step.", show_default="the recipe's")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Expected passes over the data.", show_default="the recipe's")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Clipping norm of one example's gradient.", show_default="the recipe's")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Compute the most epochs that the budget allows at this σ.", show_default=False)
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="Compute the σ for so many such runs that share the budget.", show_default=False)
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            help="Compute the plans for other batch sizes: 512,1024,4096.", metavar="B,B,…", show_default=False
        ),
    ] = None,
    segment: Annotated[
        list[str] | None,
        typer.Option(help="Compute the ε of these steps (repeatable).", metavar="NOISE:RATE:STEPS", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw ε over steps and σ over ε.", metavar="FILE.png", show_default=False)
    ] = None,
    as_json: _flags.Json = False,
) -> None:
    """Compute noise multiplier, sampling rate and steps for a budget. Reads no data."""
    choose_schedule = {"--examples": examples, "--epsilon": epsilon, "--batch-size": batch_size, "--epochs": epochs,
               "--clip": clip, "--noise": noise, "--runs": runs, "--batch-sizes": batch_sizes,
               "--plot": plot}  # fmt: skip
    if segment:
        _together("--segment", choose_schedule)
        _segments([_segment(text) for text in segment], _needed("--delta", delta), as_json)
        return
    spec = Spec(
        budget=Budget(_needed("--epsilon", epsilon), _needed("--delta", delta)),
        batch_size=batch_size, epochs=epochs, clip=clip,
    )  # fmt: skip
    count = _needed("--examples", examples)
    if batch_sizes is not None:
        _together("--batch-sizes", {"--batch-size": batch_size, "--noise": noise, "--runs": runs, "--plot": plot})
        _batches(spec, count, batch_sizes, as_json)
    elif noise is not None:
        _together("--noise", {"--epochs": epochs, "--runs": runs})
        _longest(spec, count, noise, plot, as_json)
    elif runs is not None:
        _shared(spec, count, runs, plot, as_json)
    else:
        _one(spec, count, plot, as_json)


def _one(spec: Spec, examples: int, plot: Path | None, as_json: bool) -> None:
    from dpft.privacy.mechanism.plan import make_plan
    from dpft.privacy.mechanism.tradeoffs import offers

    plan, chosen = make_plan(spec, examples), choose_schedule(spec, examples)
    _draw(plan, plan.steps, plot)
    others = offers(spec, examples) if {"batch_size", "epochs"} & {*chosen.spec.chosen} else []
    if as_json:
        advice = [dataclasses.asdict(offer) for offer in others]
        more = {"recipe": list(chosen.reasons), "offers": advice} if others else {}
        _show.print_json({**plan.to_json(), **more})
        return
    _say(plan, examples, f"{plan.steps} ({chosen.spec.epochs:g} epochs)", "for adding or removing one example")
    for reason in chosen.reasons:
        print(f"recipe    {reason}")
    if others:
        _advise(others)
    _say_plot(plot)


def _advise(others: list[Alternative]) -> None:
    """Print other plans beside the first."""
    first = others[0]
    print(
        f"{'':<36}{'batch':>7}{'epochs':>8}{'steps':>7}{'σ':>8}{'time':>7}   noise over all steps, σ C / (batch √steps)"
    )
    for one in others:
        print(
            f"{one.change:<36}{one.batch_size:>7}{one.epochs:>8.3g}{one.steps:>7}{one.noise:>8.3f}{one.time:>6.3g}x"
            f"   {one.whole:.2e}  ({one.whole / first.whole - 1:+.0%})"
        )
    print("          less noise gives a better model, until the steps are too few to learn")


def _longest(spec: Spec, examples: int, noise: float, plot: Path | None, as_json: bool) -> None:
    from dpft.privacy.mechanism.tradeoffs import longest_plan

    plan, epochs = longest_plan(spec, examples, noise)
    _draw(plan, plan.steps, plot)
    if as_json:
        _show.print_json({**plan.to_json(), "epochs": epochs})
        return
    _say(plan, examples, f"{plan.steps} at most ({epochs:g} epochs)", "for adding or removing one example")
    _say_plot(plot)


def _shared(spec: Spec, examples: int, runs: int, plot: Path | None, as_json: bool) -> None:
    from dpft.privacy.mechanism.tradeoffs import shared_plan

    plan, each = shared_plan(spec, examples, runs)
    _draw(plan, plan.steps * runs, plot)
    if as_json:
        _show.print_json({**plan.to_json(), "runs": runs, "epsilon_each": each})
        return
    steps = f"{plan.steps} a run ({choose_schedule(spec, examples).spec.epochs:g} epochs), {runs} runs"
    _say(plan, examples, steps, f"for adding or removing one example, shared by {runs} runs on the same data")
    print(f"each run  dpft train --epsilon {each!r} (and the same --delta, --epochs, --batch-size): that noise or more")
    _say_plot(plot)


def _batches(spec: Spec, examples: int, listed: str, as_json: bool) -> None:
    """Print the plans of several batch sizes for the same budget and epochs.

    A larger batch has less noise for each example (until sigma no longer falls), fewer steps, and costs the same time
    (Ponomareva et al. 2023, section 5).
    """
    from dpft.privacy.mechanism.plan import make_plan

    sizes = [part.strip() for part in listed.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(f"batch sizes must be whole numbers above 0, got {listed!r}; pass --batch-sizes 512,1024,4096")
    epochs = choose_schedule(spec, examples).spec.epochs
    spec = dataclasses.replace(spec, epochs=epochs)
    plans = [make_plan(dataclasses.replace(spec, batch_size=int(size)), examples) for size in sizes]
    if as_json:
        _show.print_json([plan.to_json() for plan in plans])
        return
    assert spec.budget is not None
    print(
        f"budget    ε {spec.budget.epsilon:g}, δ {spec.budget.delta:g}, {spec.epochs:g} epochs of {examples} examples"
    )
    print(f"{'batch':>8}{'σ':>10}{'steps':>8}   noise on the mean gradient, σ C / batch")
    for plan in plans:
        share = plan.noise * (plan.clip or 0.0) / plan.expected_batch
        print(f"{plan.expected_batch:>8}{plan.noise:>10.4f}{plan.steps:>8}   {share:.2e}")


def _segments(segments: list[Segment], delta: float, as_json: bool) -> None:
    from dpft.privacy.accounting.segments import epsilon_of

    bound = epsilon_of(segments, delta)
    if as_json:
        _show.print_json({**_bound_json(bound), "delta": delta, "segments": [vars(each) for each in segments]})
        return
    from dpft.runs.privacy_card import rounded_up

    for each in segments:
        print(f"segment   σ {each.noise:g}, q {each.rate:g}, {each.steps} steps")
    print(f"ε spent   at most {rounded_up(bound.epsilon)} at δ {delta:g}, upper bound by {bound.accountant}")
    for name, epsilon in bound.bounds.items():
        print(f"          {'no bound' if epsilon is None else rounded_up(epsilon):<10} {name}")


def _bound_json(bound: Bound) -> dict[str, Any]:
    return {"epsilon_upper": bound.epsilon, "accountant": bound.accountant, "bounds": dict(bound.bounds)}


def _segment(text: str) -> Segment:
    from dpft.privacy.accounting.segments import Segment

    try:
        noise, rate, steps = text.split(":")
        values = float(noise), float(rate), int(steps)
    except ValueError:
        raise UserError(f"a segment must be NOISE:RATE:STEPS, got {text!r}; pass --segment 0.9:0.03:600") from None
    return Segment(*values)


def _say(plan: Plan, examples: int, steps: str, promise: str) -> None:
    from dpft.runs.privacy_card import rounded_up

    assert plan.budget is not None
    print(f"budget    ε {plan.budget.epsilon:g}, δ {plan.budget.delta:g}, {promise}")
    print(f"noise     σ {plan.noise:.5f} (times the clipping norm C {plan.clip:g}, on the sum of a batch)")
    print(f"sampling  Poisson at q {plan.rate:.6f}: {plan.expected_batch} of {examples} examples expected a step")
    print(f"steps     {steps}")
    print(f"ε spent   at most {rounded_up(plan.epsilon_upper or 0.0)}, upper bound by {plan.accountant}")


def _draw(plan: Plan, steps: int, file: Path | None) -> None:
    if file is None:
        return
    from dpft.reports.drawing.curves import Curves, draw

    from dpft.privacy.mechanism.tradeoffs import noise_over_epsilon, spent_over_steps

    assert plan.budget is not None
    spent, needed = spent_over_steps(plan, steps), noise_over_epsilon(plan, steps)
    draw(Curves(spent, needed, plan.noise, steps, plan.budget.epsilon, plan.budget.delta, plan.rate), file)


def _say_plot(file: Path | None) -> None:
    if file is not None:
        print(f"drawn in  {file}")


def _together(flag: str, others: Mapping[str, object]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UserError(f"{flag} must stand without {', '.join(others)}, got {', '.join(given)}; leave one side out")


def _needed(flag: str, value: T | None) -> T:
    if value is None:
        raise UserError(
            f"dpft budget must have {flag}, or --segment with --delta; pass {flag}. Try dpft budget --help."
        )
    return value
