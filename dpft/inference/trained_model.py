"""load(): the trained model of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft import objectives, tasks
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.inference import outputs
from dpft.inference.build import build_model, resolve_hardware
from dpft.inference.writing import GREEDY, Sampling, Writer
from dpft.machine.hardware import Hardware
from dpft.models.adapted import AdaptedModel
from dpft.models.language_model import LanguageModel
from dpft.objectives import Objective, Prediction
from dpft.objectives.language import Continuation
from dpft.objectives.tagging import Tagged
from dpft.runs.folder import Run
from dpft.runs.past_data import PastData
from dpft.spec import Machine
from dpft.tokens.encode import encode

_ASKED = {"predict": "one answer a text", "tag": "tags of words", "write": "continuations of prompts"}


@dataclass(frozen=True)
class Trained:
    """The trained model of a run: `predict` texts, `tag` their words, `write` after prompts, or `evaluate` it on
    validation rows."""

    run: Run
    adapted: AdaptedModel
    labels: tuple[str, ...]
    paired: bool
    tokenizer: Any
    hardware: Hardware

    @property
    def private(self) -> bool:
        return self.run.plan.budget is not None

    @property
    def takes_pairs(self) -> bool:
        """Whether a prediction is of a pair of texts; a model that writes takes prompts alone."""
        return self.paired and self.objective.wording.verb != "write"

    @property
    def objective(self) -> Objective:
        """The objective that the model was trained for."""
        return self.adapted.objective

    def logits(self, rows: Examples) -> NDArray[np.float32]:
        """The outputs for N rows, in order: (N, outputs)."""
        spec = self.run.spec
        return outputs.logits(
            self.adapted.model, encode(rows, self.tokenizer, spec.representation, spec.max_length), self.hardware
        )

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """One prediction per text (or per pair, for tasks of pairs). Raises UserError if the run does not predict."""
        return list(self._asked("predict", texts, pairs))

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Split each text into words and tag them: tags and entities. Raises UserError if the run tags no words."""
        return list(self._asked("tag", texts))

    def write(self, prompts: Sequence[str], sampling: Sampling = GREEDY) -> list[Continuation]:
        """Continue each prompt. Raises UserError if the run does not write."""
        self._check_verb("write")
        return self.writer.write(prompts, sampling)

    @property
    def writer(self) -> Writer:
        """The language model of the run, to write in batches. Raises UserError if the run does not write."""
        model = self.adapted.model
        if not isinstance(model, LanguageModel):
            raise UserError(f"this run {self.objective.wording.gives}, got a call to write; train on a text task")
        return Writer(model, self.tokenizer, self.hardware, chat=self.run.spec.messages is not None)

    def _asked(self, verb: str, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Sequence[Any]:
        self._check_verb(verb)
        return self.predictions(texts, pairs)

    def _check_verb(self, verb: str) -> None:
        own = self.objective.wording
        if verb != own.verb:
            raise UserError(f"this run {own.gives}, got a call for {_ASKED[verb]}; call `{own.verb}` instead")

    def predictions(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Sequence[Any]:
        """The prediction of the run's objective for each text (or pair), whatever its type."""
        if self.takes_pairs != (pairs is not None):
            rule = "this run takes pairs of texts" if self.takes_pairs else "this run takes single texts"
            raise UserError(f"{rule}, got {'single ones' if self.paired else 'pairs'}; see `dpft predict --help`")
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"texts and pairs must be as many, got {len(texts)} and {len(pairs)}; pair them up")
        if self.objective.wording.verb == "write":
            return self.write(texts)
        rows = self.objective.placeholder_rows(texts, pairs, len(self.labels))
        return self.objective.read(self.logits(rows), rows, self.labels)

    def evaluate(self, data: str | None = None) -> tuple[str, float]:
        """The task's metric and its value on the validation rows, or on those of `data`."""
        return next(iter(self.figures(data).items()))

    def saw(self, data: str | None = None) -> bool:
        """Whether a validation row is known to have the text of a training row, of this run or of one it started from.

        Of more than 65,536 training records only a sample is known.
        """
        seen = PastData.read(self.run)
        parts = tasks.judged(self.run.spec, data, self.objective, self.labels)
        return seen is not None and any(part.shares(rows) for part in seen.parts for rows in parts.values())

    def figures(self, data: str | None = None) -> dict[str, float]:
        """Every metric of the task on its validation rows, or on those of `data`, the main one first."""
        return self.judged(data)[0]

    def judged(self, data: str | None = None) -> tuple[dict[str, float], dict[str, Any]]:
        """The same figures, and the figures by class of the main validation set (`Objective.by_class`)."""
        spec = self.run.spec
        parts = tasks.judged(spec, data, self.objective, self.labels)
        if not parts:
            raise UserError("evaluation needs labelled rows, got a run without a validation set; pass --data FILE")
        found = {part: (self.logits(rows), rows) for part, rows in parts.items()}
        metrics = tasks.metrics(spec, self.objective)
        figures = outputs.evaluate_metrics(self.objective, metrics, self.labels, found, details=True)
        return figures, self.objective.by_class(*next(iter(found.values())), self.labels)


def load(path: str | Path, *, machine: Machine | None = None) -> Trained:
    """Load the trained model of a finished run. Raises UserError if it is unfinished or its encoder has changed."""
    run = Run.open(Path(path))
    found = run.read_tensors("adapter")
    if found is None:
        raise UserError(
            f"a run must be finished before it is used, got {str(path)!r} without adapter.safetensors; "
            f"dpft resume {path}"
        )
    state, about = found
    labels, paired = tuple(json.loads(about["labels"])), bool(json.loads(about["paired"]))
    resolved = resolve_hardware(run.spec, machine or Machine())
    kind = json.loads(about["kind"]) if "kind" in about else None
    objective = objectives.plain(len(labels)) if kind is None else objectives.load(kind).configured(run.spec)
    made = build_model(run.spec, len(labels), paired, resolved, objective=objective)
    model = made.adapted.model
    if model.digest != about["backbone_sha256"]:
        raise UserError(
            f"the encoder must be the one of the run (sha256 {about['backbone_sha256'][:12]}…), "
            f"got {model.digest[:12]}… from {run.spec.model!r}; restore that model"
        )
    made.adapted.load(state)
    return Trained(run, made.adapted, labels, paired, made.tokenizer, resolved)
