"""Entries of the ledger, validated on construction: releases, reservations, searches, limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from dpft.privacy.ledger.storage.errors import is_whole, refuse
from dpft.spec import Budget

SECRET = "secret"  # each trial of a search draws its hyper-parameters in secret
PUBLIC = "public"  # from a sequence that anybody can compute, as in earlier versions


@dataclass(frozen=True)
class Event:
    """One charged release. `step` counts from 0; `rate` is the sampling rate, `noise` the noise multiplier."""

    run: str
    step: int
    rate: float
    noise: float


@dataclass(frozen=True)
class Reservation:
    """What a run may release: `steps` releases at sampling rate `rate` and noise multiplier `noise`."""

    run: str
    rate: float
    noise: float
    steps: int
    delta: float
    epsilon: float

    def __post_init__(self) -> None:
        _check_name(self.run, "run", "rename the run")
        _check_steps(self.rate, self.noise, self.steps)
        Budget(epsilon=self.epsilon, delta=self.delta)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        return cls(**{f.name: body[f.name] for f in fields(cls)})


@dataclass(frozen=True)
class Search:
    """A random search: K runs of `steps` releases at `rate` and `noise` each, of which only the best is released.

    K is drawn before the first run, with this `mean`: from the Poisson distribution if `shape` is infinite, else from
    the negative binomial distribution truncated at 0 (geometric at shape 1, logarithmic at 0; Papernot and Steinke
    2022). `draws`: SECRET if each run draws its hyper-parameters in secret. If they follow a PUBLIC sequence, those of
    the best run reveal its number, and the bounds of that paper do not hold.
    """

    run: str
    rate: float
    noise: float
    steps: int
    mean: float
    shape: float
    draws: str = SECRET

    def __post_init__(self) -> None:
        _check_name(self.run, "run", "rename the search")
        _check_steps(self.rate, self.noise, self.steps)
        if not 1 <= self.mean < math.inf:
            refuse("a search's mean must be a finite number of at least 1", self.mean, "say how many runs to expect")
        if not self.shape >= 0:
            refuse("a search's shape must be 0 or more", self.shape, "pass 1 for a geometric number of runs")

    def to_body(self) -> dict[str, Any]:
        """JSON has no infinity: a Poisson search's shape is written as "poisson"."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "shape": "poisson" if math.isinf(self.shape) else self.shape}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        values = {f.name: body.get(f.name, PUBLIC) if f.name == "draws" else body[f.name] for f in fields(cls)}
        return cls(**{**values, "shape": math.inf if values["shape"] == "poisson" else values["shape"]})


@dataclass(frozen=True)
class Limit:
    """The most that all runs on a population may spend together. `planned`: all of them are fixed beforehand."""

    epsilon: float
    delta: float
    planned: bool = False

    def __post_init__(self) -> None:
        Budget(epsilon=self.epsilon, delta=self.delta)


def check_population_name(name: str) -> None:
    """Raise LedgerError unless the name is printable and cannot be mistaken for `unknown` or a flag."""
    _check_name(name, "a population's name", "pass --population NAME")
    if name == "unknown" or name.startswith("-") or name != name.strip():
        refuse("a population's name must begin with a letter or digit", repr(name), "choose another name")


def _check_name(name: object, what: str, remedy: str) -> None:
    if not (isinstance(name, str) and name and name.isprintable()):
        refuse(f"{what} must be a printable name", repr(name), remedy)


def _check_steps(rate: float, noise: float, steps: object) -> None:
    if not 0 < rate <= 1:
        refuse("rate must be above 0 and at most 1", rate, "pass batch-size / examples")
    if not 0 < noise < math.inf:
        refuse("noise must be a finite number above 0", noise, "calibrate it to the budget")
    if not (is_whole(steps) and isinstance(steps, int) and steps > 0):
        refuse("steps must be a whole number above 0", repr(steps), "train for longer")
