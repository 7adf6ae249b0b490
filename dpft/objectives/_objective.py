"""The interface of an objective: everything specific to one kind of task, so that no other code branches on it."""

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

from dpft.data.examples import Examples
from dpft.data.label_column import LabelColumn
from dpft.errors import UserError
from dpft.objectives._canaries import CanaryTexts, Ingredients
from dpft.spec import Representation, Spec

Labels = tuple[str, ...]  # names of labels; none for a score
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Metric:
    """A validation metric. `worst`: the finite value for a model that has diverged."""

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
    """How a run is exported to other libraries.

    `auto_class`: the stock class of transformers. `problem`: `problem_type` in its config. `custom_class`: the class in
    modeling_dpft.py, None where there is none. `formats`: the folder in dpft/exports whose files write its formats.
    `peft_base`: the stock class that peft's adapter is put on; `peft_task`: peft's task type, None where the adapter
    is on the plain encoder and the head in a separate file. `pipeline`: the hub's tag, which is also the name of the
    pipeline. In usage lines the pipeline is a variable named `called`, made with the arguments `made` and called with
    `given`. `reading`: a Python expression of predictions from `logits`, an array or a tensor, and `labels`; "" where
    the logits are the predictions.
    """

    problem: str | None
    reading: str = ""
    auto_class: str = "AutoModelForSequenceClassification"
    custom_class: str | None = "DpftForSequenceClassification"
    formats: str = "formats"
    peft_base: str = "AutoModel"
    peft_task: str | None = None
    pipeline: str = "text-classification"
    called: str = "classify"
    made: str = ""
    given: str = ", truncation=True"

    def usage(self, text: str, more: str = "") -> list[str]:
        """Lines that run the pipeline of the folder DIR on `text`, a Python expression. `more`: further arguments."""
        return [
            "from transformers import pipeline",
            f'{self.called} = pipeline("{self.pipeline}", model="DIR"{self.made}{more})',
            f"{self.called}({text}{self.given})",
        ]


@dataclass(frozen=True)
class Wording:
    """Words for messages and model cards. `model`: what is fine-tuned; `inputs`: of the model, unless pairs; `outputs`:
    with {labels} for the label names; `reading`: a sentence about {representation}; `verb`: the method of `Trained`
    that predicts; `gives`: what it returns."""

    model: str = "encoder"
    inputs: str = "single texts"
    outputs: str = "labels: {labels}"
    reading: str = " The head reads `{representation}`."
    verb: Literal["predict", "tag", "write"] = "predict"
    gives: str = "gives one answer a text"


class Objective(ABC):
    """One kind of task. By default a text has one label and the head reads one vector of it.

    `kind`: its name. `metrics`: for the user's own data, the main one first; `further`: other known metrics.
    `representations`: what the head may read, the default first. `drift`: how far noise may move the outputs over all
    steps, which decides the head's learning rate, None without a head; `drift_alone`: the same where only the head is
    trained.
    `from_column`: its labels may be a column of a table; `from_columns`: a column of 0 and 1 for each label; `rule`:
    which columns without a stated kind are of this one, for messages; "" for none. `has_control_codes`: labels are
    written before texts, so that a run releases their shares. `joined`: how many synthetic messages are as long as a
    usual text, where time is measured.
    """

    kind: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    further: ClassVar[tuple[Metric, ...]] = ()
    representations: ClassVar[tuple[Representation, ...]] = ("mask", "cls", "mean")
    drift: ClassVar[float | None] = 0.6
    drift_alone: ClassVar[float | None] = 1.2
    export: ClassVar[ExportTarget]
    wording: ClassVar[Wording] = Wording()
    from_column: ClassVar[bool] = True
    from_columns: ClassVar[bool] = False
    rule: ClassVar[str] = ""
    has_control_codes: ClassVar[bool] = False
    joined: ClassVar[int] = 1

    def configured(self, spec: Spec) -> Objective:
        """The objective with what a spec says of it."""
        return self

    def card_lines(self, labels: Labels, paired: bool) -> list[str]:
        """Sentences for a model card about the inputs."""
        return []

    # Labels

    def recognises(self, column: LabelColumn) -> bool:
        """Whether a column without a stated kind holds such labels, by `rule`. Raises UserError for a mixture."""
        return False

    def named(self, column: LabelColumn, stated: Labels | None) -> tuple[Objective, Labels]:
        """The objective and label names of a column: the `stated` names, else those found in it."""
        raise UserError(f"a column of a table holds no labels of {self.kind}; pass another --kind")

    def parse(self, column: LabelColumn, labels: Labels, split: str) -> NDArray[Any]:
        """The labels of a column as a training array: (N, ...). Raises UserError for a missing or unknown one."""
        raise UserError(f"a column of a table holds no labels of {self.kind}; pass another --kind")

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user on how the labels were read."""
        return ()

    @abstractmethod
    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
        """Raise UserError where the label array of a split does not match the label names."""

    @abstractmethod
    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        """Valid labels for `rows` placeholder rows."""

    def placeholder_rows(self, texts: Sequence[str], pairs: Sequence[str] | None, labels: int) -> Examples:
        """Texts without labels as rows of such a task, with placeholder labels."""
        return Examples(texts, pairs, self.blank(len(texts), labels))

    def weighted(self, labels: Labels, weights: str | Mapping[str, float], shares: Mapping[str, float]) -> Objective:
        """The objective with class weights: `weights` of each label, or "balanced" by their `shares`."""
        raise UserError(f"class-weights go with one label of several, got a task of {self.kind}; drop --class-weights")

    # Model and loss

    def representation_for(self, asked: Representation, task: str) -> Representation:
        """The representation for a requested one, `asked`. Raises UserError for one the objective cannot use."""
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
        """Number of outputs of the head for so many labels."""
        return labels or 1

    def output_names(self, labels: Labels) -> Labels:
        """A name for each output, for a config."""
        return labels or ("score",)

    @property
    def start(self) -> float:
        """The initial value of the outputs."""
        return 0.0

    @property
    def reach(self) -> float:
        """The typical distance of outputs from `start`."""
        return 1.0

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """One loss per example, independent of other examples: (B, ..., outputs), (B, ...) -> (B,)."""

    def of_windows(self, losses: Tensor, shares: Tensor) -> Tensor:
        """Losses of windows that add up to the losses of their texts: (B,). losses: (B,), of each window as if it were
        a text. shares: (B,), each window's share of its text's judged tokens."""
        return losses * shares

    # Evaluation and prediction

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in (*self.metrics, *self.further) if metric.name == name)

    def judged(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        """The metrics of rows by name, from their outputs; the `worst` values for a model that has diverged."""
        if not np.isfinite(outputs).all():
            return {name: self.metric(name).worst for name in metrics}
        return self.score(metrics, outputs, rows, labels)

    @abstractmethod
    def score(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        """The metrics of rows by name. outputs: finite, (N, outputs), one row for each label."""

    def details(self, outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        """Further figures, too many to store with each run."""
        return {}

    def by_class(self, outputs: Floats, rows: Examples, labels: Labels) -> dict[str, Any]:
        """Figures by class: `largest` class, `f1_macro`, `recall` of each class; {} where they do not apply."""
        return {}

    @abstractmethod
    def read(self, outputs: Floats, rows: Examples, labels: Labels) -> Sequence[Any]:
        """A prediction for each of N texts, from the outputs of `placeholder_rows`."""

    def printed(self, found: Any, text: str) -> str:
        """A prediction and its text as `dpft predict` prints them: tab-separated."""
        return f"{found.label}\t{found.probability:.3f}\t{text}"

    def to_json(self, found: Any) -> dict[str, Any]:
        """A prediction as `dpft predict --json` prints it."""
        return {"label": found.label, "probability": found.probability}

    # Auditing. Each row has one position: outputs (m, C).

    @abstractmethod
    def least_likely(self, outputs: Tensor) -> Tensor:
        """For each row a label that the outputs are far from, so that its loss has a large gradient."""

    @abstractmethod
    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        """Labels of an audit's rows: `sides` (N,) 0 and 1 have opposing gradients; `turned` rows change sides."""

    def position_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Losses of examples with exactly one position: (m, C) and m labels -> (m,)."""
        return self.losses(outputs, labels)

    def row_losses(self, outputs: Floats, rows: Examples) -> NDArray[np.float64]:
        """The loss of each row in float64, from all outputs of `rows`: (N,)."""
        return self.losses(torch.from_numpy(outputs).double(), labels_of(rows)).numpy()

    def canaries(self, of: Ingredients, labels: Labels, paired: bool, rng: Random) -> CanaryTexts | None:
        """Canaries of such a task: messages with a wrong label, then random words. None where it has no canaries."""
        found = self.canary_labels(of.true, len(of.words), len(labels), rng)
        if found is None:
            return None
        texts = [*of.messages, *of.words]
        return CanaryTexts(Examples(texts, texts if paired else None, found), np.arange(len(of)) >= len(of.messages))

    def canary_labels(self, true: Sequence[int], rest: int, labels: int, rng: Random) -> NDArray[Any] | None:
        """Labels of canaries: wrong ones for messages whose correct label is `true`, 0 or 1, then `rest` random ones.
        None where the objective has no canaries."""
        return None


def labels_of(rows: Examples) -> Tensor:
    """Labels as a tensor, for losses in float64."""
    labels = torch.from_numpy(np.asarray(rows.labels))
    return labels.double() if labels.is_floating_point() else labels
