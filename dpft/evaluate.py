"""Logits and features of all rows, and the task's metric from logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from dpft.batch import Batch
from dpft.hardware import Hardware
from dpft.models.heads import Classifier
from dpft.privacy.ranks import ALONE, Team
from dpft.tasks.encode import Encoded
from dpft.tasks.microbatch import collate, cut


def logits(model: Classifier, data: Encoded, hardware: Hardware) -> NDArray[np.float32]:
    """The model's outputs for every row, in the rows' order: (N, outputs). N may be 0."""
    return _every_row(model, model, data, model.head.out_features, hardware)


def features(model: Classifier, data: Encoded, hardware: Hardware, ranks: Team = ALONE) -> NDArray[np.float32]:
    """What the head reads of every row: (N, D). Each of `ranks` computes its share, and gets all."""
    return _every_row(model, model.represent, data, model.head.in_features, hardware, ranks)


@torch.inference_mode()
def _every_row(
    model: Classifier,
    of: Callable[[Batch], Tensor],
    data: Encoded,
    width: int,
    hardware: Hardware,
    ranks: Team = ALONE,
) -> NDArray[np.float32]:
    out = np.zeros((len(data), width), np.float32)
    order = np.argsort(-data.lengths, kind="stable")
    per_example, model.per_example = model.per_example, False
    for part in ranks.own(list(cut(data.lengths[order], 2 * hardware.tokens))):
        rows = order[part]
        out[rows] = of(collate(data, rows, hardware.device)).float().cpu().numpy()
    model.per_example = per_example
    return ranks.joined(out)


def score(metric: str, outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """The metric by its GLUE name: accuracy, f1 (of class 1), matthews, or pearson for scores.

    outputs: (N, C) logits or (N, 1) scores; labels: (N,). Returns a number of at most 1: 0 for a model that
    has diverged.
    """
    if not np.isfinite(outputs).all():
        return 0.0
    if metric == "pearson":
        constant = np.ptp(outputs[:, 0]) == 0 or len(labels) < 2
        return 0.0 if constant else float(pearsonr(outputs[:, 0], labels).statistic)
    chosen = outputs.argmax(1)
    judge = {"accuracy": accuracy_score, "f1": f1_score, "matthews": matthews_corrcoef}[metric]
    return float(judge(labels, chosen))
