"""The contract of an objective: all that one kind of task is asked, so that nobody else asks which kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.data.examples import Rows
from dpft.data.label_column import Column
from dpft.errors import UserError
from dpft.spec import Representation, Spec

Labels = tuple[str, ...]  # names of labels; none for a score
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Metric:
    """A figure of rows to judge by. `worst`: what a model that has diverged is given, a finite number."""

    name: str
    higher_is_better: bool = True
    worst: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """A label with its probability; a score (no probability); or the labels that apply, with theirs."""

    label: str | float | tuple[str, ...]
    probability: float | tuple[float, ...] | None


@dataclass(frozen=True)
class ExportTarget:
    """What a run becomes elsewhere.

    `auto_class`: the stock class of transformers. `problem`: its config's `problem_type`. `custom_class`: ours in
    modeling_dpft.py, None where an export may bring no code. `peft_task`: peft's task type; None where the adapter
    sits on the plain encoder, with the head beside it. `pipeline`: the hub's tag, and the pipeline of that name, which
    is `called` so in the usage, made with the arguments `made` and called with `given`. `reading`: Python that makes
    predictions of `logits`, an array or a tensor, and `labels`; "" where they are the predictions.
    """

    problem: str | None
    reading: str = ""
    auto_class: str = "AutoModelForSequenceClassification"
    custom_class: str | None = "DpftForSequenceClassification"
    peft_task: str | None = None
    pipeline: str = "text-classification"
    called: str = "classify"
    made: str = ""
    given: str = ", truncation=True"

    def usage(self, text: str, more: str = "") -> list[str]:
        """Lines that use the exported folder DIR by its pipeline on `text`, which is Python; `more`: of its making."""
        return [
            "from transformers import pipeline",
            f'{self.called} = pipeline("{self.pipeline}", model="DIR"{self.made}{more})',
            f"{self.called}({text}{self.given})",
        ]


@dataclass(frozen=True)
class Wording:
    """What messages and model cards call it. `inputs`: what it judges, unless pairs; `outputs`: with {labels} for their
    names; `verb`: the call of `Trained` that gives predictions; `gives`: what that is."""

    inputs: str = "single texts"
    outputs: str = "labels: {labels}"
    verb: Literal["predict", "tag"] = "predict"
    gives: str = "gives one answer a text"


class Objective(ABC):
    """One kind of task. Unless told otherwise, a text has one label and the head reads one vector of it.

    `kind`: its name. `metrics`: of a user's own data, the main one first; `further`: others that it knows.
    `representations`: what the head may read, the usual one first. `drift`: how far noise may move the outputs over all
    steps, by which the head's learning rate is chosen; `drift_alone`: where nothing but the head is trained.
    `from_column`: its labels may come in a column of a table; `from_columns`: in one of 0 and 1 for each label; `rule`:
    by which unstated columns are taken for it, for messages, "" where none is.
    """

    kind: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    further: ClassVar[tuple[Metric, ...]] = ()
    representations: ClassVar[tuple[Representation, ...]] = ("mask", "cls", "mean")
    drift: ClassVar[float] = 0.6
    drift_alone: ClassVar[float] = 1.2
    export: ClassVar[ExportTarget]
    wording: ClassVar[Wording] = Wording()
    from_column: ClassVar[bool] = True
    from_columns: ClassVar[bool] = False
    rule: ClassVar[str] = ""

    # Labels

    def recognises(self, column: Column) -> bool:
        """Whether a column whose kind nobody stated holds such labels, by `rule`. Raises UserError for a mixture."""
        return False

    def named(self, column: Column, stated: Labels | None) -> tuple[Objective, Labels]:
        """The objective and the label names of a column: those that were `stated`, else those that it holds."""
        raise UserError(f"a column of a table holds no labels of {self.kind}; pass another --kind")

    def parse(self, column: Column, labels: Labels, split: str) -> NDArray[Any]:
        """The column's labels, as training takes them: (N, ...). Raises UserError at a missing or unknown one."""
        raise UserError(f"a column of a table holds no labels of {self.kind}; pass another --kind")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the labels were taken."""
        return ()

    @abstractmethod
    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
        """Raise UserError where a split's label array does not fit the label names."""

    @abstractmethod
    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        """Labels of `rows` made-up rows, that anything can be computed with."""

    def placeholder_rows(self, texts: Sequence[str], pairs: Sequence[str] | None, labels: int) -> Rows:
        """Texts of unknown labels as rows of such a task with so many labels."""
        return Rows(texts, pairs, self.blank(len(texts), labels))

    def weighted(self, labels: Labels, weights: str | Mapping[str, float], shares: Mapping[str, float]) -> Objective:
        """With class weights: `weights` of each label, or "balanced" by the `shares` that they have."""
        raise UserError(f"class-weights go with one label of several, got a task of {self.kind}; drop --class-weights")

    # Model and loss

    def representation_for(self, asked: Representation, task: str) -> Representation:
        """What the head reads where `asked` was asked for. Raises UserError for what the objective cannot use."""
        if asked in self.representations:
            return asked
        if asked == Spec.representation:
            return self.representations[0]
        others = ", ".join(self.representations[:-1])
        raise UserError(
            f"representation {asked} goes with tasks that label words, got {task}; "
            f"pass {others + ' or ' if others else ''}{self.representations[-1]}"
        )

    def outputs(self, labels: int) -> int:
        """Rows of the head, of a task with so many labels."""
        return labels or 1

    def output_names(self, labels: Labels) -> Labels:
        """A name for each output, for a config: as many as `outputs`."""
        return labels or ("score",)

    @property
    def start(self) -> float:
        """What outputs are before anything is learned."""
        return 0.0

    @property
    def reach(self) -> float:
        """How far from `start` outputs lie."""
        return 1.0

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """One loss per example, which no other example's outputs enter: (B, ..., outputs), (B, ...) -> (B,)."""

    # Judging and predicting

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in (*self.metrics, *self.further) if metric.name == name)

    def judged(self, metrics: Sequence[str], outputs: Floats, rows: Rows, labels: Labels) -> dict[str, float]:
        """The metrics of rows by name, from their outputs; the worst of each for a model that has diverged."""
        if not np.isfinite(outputs).all():
            return {name: self.metric(name).worst for name in metrics}
        return self.score(metrics, outputs, rows, labels)

    @abstractmethod
    def score(self, metrics: Sequence[str], outputs: Floats, rows: Rows, labels: Labels) -> dict[str, float]:
        """The metrics of rows by name. outputs: finite, one row of numbers for each label, (N, outputs)."""

    def details(self, outputs: Floats, rows: Rows, labels: Labels) -> dict[str, float]:
        """Further figures of rows, too many to be written down with each run."""
        return {}

    def by_class(self, outputs: Floats, rows: Rows, labels: Labels) -> dict[str, Any]:
        """What the main metric alone hides: `largest` class, `f1_macro`, `recall` of each. {} where nothing."""
        return {}

    @abstractmethod
    def read(self, outputs: Floats, rows: Rows, labels: Labels) -> Sequence[Any]:
        """A prediction for each of N texts, from the outputs of `placeholder_rows`."""

    def printed(self, found: Any, text: str) -> str:
        """A prediction and its text, as `dpft predict` prints them: parts with a tab between."""
        return f"{found.label}\t{found.probability:.3f}\t{text}"

    def to_json(self, found: Any) -> dict[str, Any]:
        """A prediction, as `dpft predict --json` prints it."""
        return {"label": found.label, "probability": found.probability}

    # Auditing. There is one position a row: outputs (m, C).

    @abstractmethod
    def least_likely(self, outputs: Tensor) -> Tensor:
        """For each row a label that the outputs are far from: its loss has a gradient of some size."""

    @abstractmethod
    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        """Labels of an audit's rows: (N,) `sides` 0 or 1 pull apart, and `turned` rows pull the other way."""

    def position_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Losses of examples that have nothing but this one position: (m, C) and m labels -> (m,)."""
        return self.losses(outputs, labels)

    def row_losses(self, outputs: Floats, rows: Rows) -> NDArray[np.float64]:
        """Each row's loss in float64, from all outputs of `rows`: (N,)."""
        return self.losses(torch.from_numpy(outputs).double(), labels_of(rows)).numpy()

    def canary_labels(self, true: Sequence[int], rest: int, labels: int, rng: Random) -> NDArray[Any] | None:
        """Labels of planted rows: wrong ones for messages whose right label is `true`, 0 or 1, then `rest` random
        ones. None where none can be planted."""
        return None


def labels_of(rows: Rows) -> Tensor:
    """Labels as losses in float64 take them."""
    labels = torch.from_numpy(np.asarray(rows.labels))
    return labels.double() if labels.is_floating_point() else labels
