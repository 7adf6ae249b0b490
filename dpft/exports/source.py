"""The input of an export: a finished run in float32 on the CPU, with its head folded into one dense layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpft import methods
from dpft.errors import UserError
from dpft.inference.trained_model import Trained, load
from dpft.objectives import Objective
from dpft.spec import Machine, Spec


@dataclass(frozen=True)
class ExportSource:
    """A trained run. `folded`: its head on the raw representation, (B, D) -> (B, outputs); None where it has none."""

    trained: Trained
    folded: nn.Linear | None
    privacy: dict[str, Any]
    result: dict[str, Any]

    @classmethod
    def open(cls, run: str | Path) -> ExportSource:
        """Open a run. Raises UserError where it is unfinished, its encoder changed, or its card is another run's."""
        found = load(run, machine=Machine(device="cpu", precision="fp32"))
        privacy, result = found.run.read_json("privacy"), found.run.read_json("result")
        if privacy is None or result is None:
            raise UserError(
                f"a run must be finished before it is exported, got {str(run)!r} without its card or result; "
                f"dpft resume {run}"
            )
        if found.run.spec.canaries:
            raise UserError(
                f"an export must contain no canaries, got a run with {found.run.spec.canaries} of them, made for "
                "an audit; train without --canaries"
            )
        plan = found.run.plan
        stated = {key: privacy.get(key) for key in ("private", "epsilon", "noise", "clip", "rate", "steps_planned")}
        planned = {"private": False, **dict.fromkeys(list(stated)[1:])}
        if plan.budget is not None:
            planned = {
                "private": True, "epsilon": plan.epsilon_upper, "noise": plan.noise, "clip": plan.clip,
                "rate": plan.rate, "steps_planned": plan.steps,
            }  # fmt: skip
        if stated != planned:
            raise UserError(
                f"a run's card must state what its plan says, got another in {str(run)!r}; restore its privacy.json"
            )
        model = found.adapted.model
        return cls(found, _folded_head(model) if model.head_parameters() else None, privacy, result)

    @property
    def head(self) -> nn.Linear:
        """The head of a model that labels."""
        assert self.folded is not None
        return self.folded

    @property
    def spec(self) -> Spec:
        return self.trained.run.spec

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the outputs; empty for a score."""
        return self.trained.labels

    @property
    def objective(self) -> Objective:
        """The kind of task that the run was trained for."""
        return self.trained.objective

    def reading(self) -> list[str]:
        """Python lines that turn `logits` into predictions; none where the logits are the predictions."""
        names = [f"labels = {list(self.labels)!r}"] if self.labels else []
        return [*names, *filter(None, [self.objective.export.reading])]

    def merged(self) -> nn.Module:
        """The stock model with the method merged into its weights. Raises methods.CannotMerge."""
        return methods.load(self.spec.method, self.spec.options).merge(self.trained.adapted.model)


@torch.no_grad()
def _folded_head(model: Any) -> nn.Linear:
    """W (r - center) * spread + b as one dense layer with the same outputs."""
    head = nn.Linear(model.head.in_features, model.head.out_features)
    head.weight.copy_(model.head.weight * model.spread)
    head.bias.copy_(model.head.bias - head.weight @ model.center)
    return head
