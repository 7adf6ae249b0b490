"""Logits and features of all rows, and metrics from logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.machine.hardware import Hardware
from dpft.machine.team import SINGLE_PROCESS, Team
from dpft.models.base import AdaptableModel
from dpft.models.classifier import classifier
from dpft.objectives import Objective
from dpft.tokens.microbatch import collate, cut

_NEVER = -30.0  # a logit that, next to 0, means a probability of almost 0


def logits(model: AdaptableModel, data: Encoded, hardware: Hardware) -> NDArray[np.float32]:
    """The model's outputs for every row, in the rows' order: (N, outputs). N may be 0.

    If the task labels words, for every word: (W, outputs). A word without a token gets the first label, "outside".
    """
    places = data.judged
    none = 0.0 if model.representation == "none" else _NEVER  # sums over windows start at 0
    out = np.full((places.count, model.output_count), none, np.float32)
    out[:, 0] = 0.0
    for rows, found in _in_turn(model, model, data, hardware, SINGLE_PROCESS):
        places.put(out, rows, found)
    return out


def features(
    model: AdaptableModel, data: Encoded, hardware: Hardware, ranks: Team = SINGLE_PROCESS
) -> NDArray[np.float32]:
    """The head's input for every row: (N, D); if the task labels words, for every token that is `kept`: (K, D).

    Each rank computes its share and receives all of it.
    """
    places = data.feature_positions
    own = classifier(model)
    out = np.zeros((places.count, own.head.in_features), np.float32)
    for rows, found in _in_turn(own, own.represent, data, hardware, ranks):
        places.put(out, rows, found)
    return ranks.all_gather(out)


@torch.inference_mode()
def _in_turn(
    model: AdaptableModel, of: Callable[[Batch], Tensor], data: Encoded, hardware: Hardware, ranks: Team
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Apply `of` to this rank's share of all rows, longest first. Yields row numbers (B,) and the result (B, ...)."""
    order = np.argsort(-data.lengths, kind="stable")
    per_example, model.per_example = model.per_example, False
    for part in ranks.own(list(cut(data.lengths[order], 2 * hardware.tokens))):
        rows = order[part]
        yield rows, of(collate(data, rows, hardware.device)).float().cpu().numpy()
    model.per_example = per_example


def evaluate_metrics(
    objective: Objective,
    metrics: Sequence[str],
    labels: tuple[str, ...],
    parts: Mapping[str, tuple[NDArray[np.float32], Examples]],
    *,
    details: bool = False,
) -> dict[str, float]:
    """Every metric of every validation set, by name: `accuracy`, or `accuracy_mismatched` for a named set.

    parts: logits and rows of each set, by its name ("" for the main one). details: add the objective's further figures.
    """
    found: dict[str, float] = {}
    for part, (outputs, rows) in parts.items():
        own = objective.judged(metrics, outputs, rows, labels)
        if details:
            own = {**own, **objective.details(outputs, rows, labels)}
        found.update({f"{name}_{part}" if part else name: value for name, value in own.items()})
    return found
