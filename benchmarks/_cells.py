"""One cell of the accuracy grid: a spec trained by the shipped step, averages of its weights judged beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from dpft import averages, evaluate, optimizers, phases, tasks
from dpft.adapt import Model, adapt, settle
from dpft.methods._method import Adapted
from dpft.privacy.ledger import Ledger
from dpft.privacy.plan import Plan, make_plan
from dpft.privacy.sampler import poisson_batches
from dpft.privacy.secret import Secret
from dpft.privacy.step import PrivateStep
from dpft.spec import Machine, Spec, canonical_json
from dpft.tasks import Rows, Task
from dpft.tasks.encode import Encoded, encode
from dpft.tasks.microbatch import microbatches

_RUN, _ROWS_SEED = "cell", 11


@dataclass(frozen=True)
class Found:
    """What one spec came to: the metric's value on the validation rows, its plan, and the seconds of its run."""

    value: float
    plan: Plan
    seconds: float


class Bench:
    """A task's rows, and what is the same in many cells, made once: token arrays, frozen features, the last model.

    `examples`: a public choice of so many training rows, by a fixed seed; None takes all.
    """

    def __init__(self, spec: Spec, examples: int | None, machine: Machine) -> None:
        task = sms(Path(spec.data or "")) if spec.task == "sms" else tasks.load(spec)
        if examples is not None and examples < len(task.train):
            chosen = np.sort(np.random.default_rng(_ROWS_SEED).permutation(len(task.train))[:examples])
            task = replace(task, train=_some(task.train, chosen))
        self.task, self.hardware = task, settle(spec, machine)
        self._rows: dict[tuple[object, ...], tuple[Encoded, Encoded]] = {}
        self._model: tuple[str, Model, dict[str, Tensor]] | None = None

    def cell(self, spec: Spec, spelled: Sequence[str]) -> Iterator[tuple[str, Found]]:
        """Train by `spec`, and judge each average that is `spelled` ("none": the last weights)."""
        plan = make_plan(spec, len(self.task.train))
        model, start = self._adapted(spec)
        model.adapted.load(start)
        train, validation = self._encoded(spec, model)
        began = time.monotonic()
        made = self._trained(spec, plan, model.adapted, train, spelled)
        seconds, last = time.monotonic() - began, model.adapted.state()
        for name, average in made.items():
            model.adapted.load(last)
            average.apply()
            outputs = evaluate.logits(model.adapted.model, validation, self.hardware)
            value = evaluate.score(self.task.metric, outputs, validation.labels)
            yield name, Found(value, plan, seconds)

    def _trained(
        self, spec: Spec, plan: Plan, adapted: Adapted, train: Encoded, spelled: Sequence[str]
    ) -> dict[str, averages.Average]:
        """The lines of training (dpft.training), without a run folder."""
        optimizer = optimizers.make(spec, plan, adapted.updated)
        made = {name: averages.make(name, adapted.updated, plan.steps) for name in spelled}
        secret = Secret()
        adapted.model.per_example = True
        with tempfile.TemporaryDirectory(prefix="dpft-cell-") as folder, Ledger(Path(folder) / "ledger") as book:
            assert plan.budget is not None
            assert plan.epsilon_upper is not None
            book.reserve(_RUN, rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=plan.budget.delta,
                         epsilon=plan.epsilon_upper)  # fmt: skip
            step = phases.Phased(
                adapted, spec.probe_steps(plan.steps),
                lambda part: PrivateStep(part, plan, optimizer, book, secret, _RUN),
            )  # fmt: skip
            for number, drawn in enumerate(poisson_batches(len(train), plan, secret)):
                optimizers.set_rate(optimizer, spec, number, plan.steps)
                step(number, microbatches(train, drawn, self.hardware.tokens, self.hardware.device))
                for average in made.values():
                    average.add(number)
            step.close()
        return made

    def _encoded(self, spec: Spec, model: Model) -> tuple[Encoded, Encoded]:
        """Training and validation rows as token arrays, or as features where the encoder stays as it is."""
        key = (spec.representation, spec.max_length, model.adapted.frozen)
        if key not in self._rows:
            assert self.task.validation is not None  # every task of the grid has them
            both = [
                encode(rows, model.tokenizer, spec.representation, spec.max_length)
                for rows in (self.task.train, self.task.validation)
            ]
            if model.adapted.frozen:
                made = model.adapted.model
                both = [rows.with_features(evaluate.features(made, rows, self.hardware)) for rows in both]
            self._rows[key] = (both[0], both[1])
        return self._rows[key]

    def _adapted(self, spec: Spec) -> tuple[Model, dict[str, Tensor]]:
        """The model of `spec` and its start. Only what makes another model makes a new one."""
        key = canonical_json([spec.method, spec.options, spec.representation, spec.max_length, spec.seed])
        if self._model is None or self._model[0] != key:
            made = adapt(spec, len(self.task.labels), self.task.train.pairs is not None, self.hardware)
            self._model = key, made, {name: t.clone() for name, t in made.adapted.state().items()}
        phases.check(spec, self._model[1].adapted)
        return self._model[1:]


def sms(folder: Path) -> Task:
    """The SMS spam collection (Almeida et al. 2011): train.parquet and validation.parquet of `sms` and `label`."""
    train, validation = (
        Rows(table["sms"].tolist(), None, table["label"].to_numpy(np.int64))
        for table in (pd.read_parquet(folder / f"{split}.parquet") for split in ("train", "validation"))
    )
    return Task("sms", train, validation, ("ham", "spam"), "f1")


def _some(rows: Rows, chosen: NDArray[np.int64]) -> Rows:
    pairs = None if rows.pairs is None else [rows.pairs[i] for i in chosen]
    return Rows([rows.texts[i] for i in chosen], pairs, rows.labels[chosen])
