"""Train on synthetic rows, test on real ones: what a classifier learns from them, beside what real rows teach it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft import objectives
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.inference import outputs
from dpft.inference.build import build_model
from dpft.inference.inputs import encoded_splits, frozen_features, task_key
from dpft.machine.hardware import Hardware
from dpft.machine.memo import CachingMemo
from dpft.models.classifier import Classifier
from dpft.objectives.classification import measure
from dpft.runs.folder import private_folder
from dpft.spec import Machine, Spec
from dpft.tasks import Task
from dpft.tokens.encode import encode
from dpft.training.train import train

_INVERSE_PENALTY = 1.0  # C of scikit-learn, its default
_ITERATIONS = 2000


@dataclass(frozen=True)
class Scores:
    """Of a classifier on the validation rows: macro-F1 and accuracy."""

    f1_macro: float
    accuracy: float


@dataclass(frozen=True)
class RealRows:
    """What the same classifier learns from the training rows. Not covered by any promise: it belongs into private/.

    exact: without privacy. private: trained at the run's epsilon and delta; None for a run without privacy, or where no
    such run can be trained, and `refused` says why.
    """

    exact: Scores
    private: Scores | None
    refused: str | None


class Probe:
    """A linear probe: logistic regression on frozen features of an encoder (the mean of the first 128 tokens).

    task: the real rows as a classification task, with a validation set. spec: of the run that wrote the texts; its
    budget and its unit are taken. model: the encoder.
    """

    def __init__(self, task: Task, spec: Spec, hardware: Hardware, model: str = Spec.model) -> None:
        self.task, self.hardware, self.memo = _classification(task), hardware, CachingMemo()
        self.spec = Spec(
            task="files", data="real rows in memory", text="text", label="label", kind=self.task.objective.kind,
            labels=task.labels, unit=spec.unit, max_per_unit=spec.max_per_unit, model=model, method="linear",
            seed=spec.seed, budget=spec.budget,
        )  # fmt: skip
        self.memo.get("tasks", task_key(self.spec), lambda: self.task)  # where `train` looks first: nothing is read
        built = build_model(self.spec, len(task.labels), False, hardware)
        rows = encoded_splits(self.spec, self.task, built.tokenizer, self.memo)
        found = [one.features for one in frozen_features(self.spec, rows, built, hardware, self.memo)]
        assert isinstance(built.adapted.model, Classifier)
        assert found[0] is not None
        assert found[1] is not None
        self.encoder, self.tokenizer = built.adapted.model, built.tokenizer
        self.train, self.test = found[0], found[1]

    def synthetic(self, texts: Sequence[str], labels: NDArray[np.int64]) -> Scores:
        """Train on the synthetic texts, test on the validation rows: covered by the run's promise as far as the
        validation rows are not training rows."""
        rows = Examples(texts, None, labels)
        encoded = encode(rows, self.tokenizer, self.spec.representation, self.spec.max_length)
        return self._scores(outputs.features(self.encoder, encoded, self.hardware), labels)

    def real(self, folder: Path) -> RealRows:
        """Train on the training rows, exactly and privately. folder: a private one, for the private run.

        That run and its ledger lie in a temporary folder there, and are removed. It is not charged to the user's
        ledger: its figure must stay in private/, like the exact one.
        """
        exact = self._scores(self.train, self.task.train.labels)
        if self.spec.budget is None:
            return RealRows(exact, None, "the run is not private")
        private_folder(folder)
        own: dict[str, Any] = {"device": str(self.hardware.device), "precision": self.hardware.precision}
        machine = Machine(tokens_per_microbatch=self.hardware.tokens, **own)
        with tempfile.TemporaryDirectory(prefix="beside-", dir=folder) as aside:
            try:
                found = train(
                    self.spec, runs=aside, ledger=Path(aside) / "ledger.sqlite", machine=machine, memo=self.memo
                )
            except UserError as error:
                return RealRows(exact, None, str(error))
        assert found.value is not None
        return RealRows(exact, Scores(found.further["f1_macro"], found.value), None)

    def _scores(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> Scores:
        assert self.task.validation is not None
        chosen = np.eye(len(self.task.labels), dtype=np.float32)[predictions(features, labels, self.test)]
        true = self.task.validation.labels
        return Scores(measure("f1_macro", chosen, true), measure("accuracy", chosen, true))


def predictions(train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32]) -> NDArray[np.int64]:
    """Labels for the rows of `test`, (M,), by logistic regression on standardised features `train`, (N, D).

    A label that is missing in `labels` is never given; where there is one label alone, every row gets it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS))
    found: NDArray[np.int64] = probe.fit(train, labels).predict(test)
    return found


def _classification(task: Task) -> Task:
    """The texts of `task` and their labels as a task of single texts."""
    assert task.validation is not None
    metric, *further = (one.name for one in objectives.plain(len(task.labels)).metrics)
    return Task(
        "files", _plain(task.train), _plain(task.validation), task.labels, metric,
        objectives.plain(len(task.labels)), tuple(further),
    )  # fmt: skip


def _plain(rows: Examples) -> Examples:
    return Examples(list(rows.texts), None, rows.labels, rows.units)
