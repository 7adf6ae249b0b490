"""Logits and features of all rows, and the task's metric from logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, recall_score
from torch import Tensor

from dpft import tagged
from dpft.batch import Batch
from dpft.hardware import Hardware
from dpft.models.heads import Classifier
from dpft.privacy.ranks import ALONE, Team
from dpft.tasks import Rows
from dpft.tasks.encode import Encoded
from dpft.tasks.microbatch import collate, cut
from dpft.tasks.words import Spoken

_NEVER = -30.0  # a logit beside 0: next to no probability


def logits(model: Classifier, data: Encoded, hardware: Hardware) -> NDArray[np.float32]:
    """The model's outputs for every row, in the rows' order: (N, outputs). N may be 0.

    Where words are judged, for every word: (W, outputs). A word without a token gets the first label, outside.
    """
    if data.words is not None:
        return _every_word(model, data, data.words, hardware)
    return _every_row(model, model, data, model.head.out_features, hardware)


def features(model: Classifier, data: Encoded, hardware: Hardware, ranks: Team = ALONE) -> NDArray[np.float32]:
    """What the head reads of every row: (N, D); where words are judged, of every token that is `kept`: (K, D).

    Each of `ranks` computes its share, and gets all.
    """
    if data.words is not None:
        return _every_token(model, model.represent, data, data.kept, model.head.in_features, hardware, ranks)
    return _every_row(model, model.represent, data, model.head.in_features, hardware, ranks)


def _every_row(
    model: Classifier, of: Callable[[Batch], Tensor], data: Encoded, width: int, hardware: Hardware, ranks: Team = ALONE
) -> NDArray[np.float32]:
    out = np.zeros((len(data), width), np.float32)
    for rows, found in _in_turn(model, of, data, hardware, ranks):
        out[rows] = found
    return ranks.joined(out)


def _every_word(model: Classifier, data: Encoded, words: Spoken, hardware: Hardware) -> NDArray[np.float32]:
    out = np.full((words.count, model.head.out_features), _NEVER, np.float32)
    out[:, 0] = 0.0
    judged = words.at >= 0
    out[words.at[judged]] = _every_token(model, model, data, judged, model.head.out_features, hardware)
    return out


def _every_token(
    model: Classifier, of: Callable[[Batch], Tensor], data: Encoded, wanted: NDArray[np.bool_], width: int,
    hardware: Hardware, ranks: Team = ALONE,
) -> NDArray[np.float32]:  # fmt: skip
    """(K, width) for the tokens that are wanted of all, in their order."""
    out, place = np.zeros((int(wanted.sum()), width), np.float32), np.cumsum(wanted) - 1
    for rows, found in _in_turn(model, of, data, hardware, ranks):
        for row, tokens in zip(rows, found, strict=True):
            own = np.arange(data.starts[row], data.starts[row + 1])
            out[place[own[wanted[own]]]] = tokens[: len(own)][wanted[own]]
    return ranks.joined(out)


@torch.inference_mode()
def _in_turn(
    model: Classifier, of: Callable[[Batch], Tensor], data: Encoded, hardware: Hardware, ranks: Team
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Numbers of rows and what `of` makes of them, this rank's share of all rows, longest first."""
    order = np.argsort(-data.lengths, kind="stable")
    per_example, model.per_example = model.per_example, False
    for part in ranks.own(list(cut(data.lengths[order], 2 * hardware.tokens))):
        rows = order[part]
        yield rows, of(collate(data, rows, hardware.device)).float().cpu().numpy()
    model.per_example = per_example


def judge(
    metrics: Sequence[str], labels: Sequence[str], parts: Mapping[str, tuple[NDArray[np.float32], Rows]]
) -> dict[str, float]:
    """Every figure of rows to judge by, from each part's logits: the metrics, or those of entities where words are
    labelled."""
    found = figures(metrics, {part: (out, rows.labels) for part, (out, rows) in parts.items() if rows.words is None})
    for part, (outputs, rows) in parts.items():
        if rows.words is not None:
            own = tagged.figures(outputs, rows.labels, rows.words, labels)
            found.update({f"{name}_{part}" if part else name: value for name, value in own.items()})
    return found


def by_class(outputs: NDArray[np.float32], labels: NDArray[Any], names: Sequence[str]) -> dict[str, Any]:
    """What accuracy alone hides, of rows with one label of several: the largest class with its share, which is the
    accuracy of naming it for all, macro-F1, and the recall of each class that these rows have.

    outputs: (N, C) logits; labels: (N,). {} where the labels are of another kind, or there are no rows.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or not names:
        return {}
    counts = np.bincount(labels, minlength=len(names))
    there = np.flatnonzero(counts)
    chosen = outputs.argmax(1)
    recalls = recall_score(labels, chosen, labels=there, average=None, zero_division=0.0)
    largest = int(counts.argmax())
    return {
        "largest": {"label": names[largest], "share": float(counts[largest] / len(labels))},
        "f1_macro": float(_OF_LABELS["f1_macro"](labels, chosen)),
        "recall": {names[int(number)]: float(value) for number, value in zip(there, recalls, strict=True)},
    }


def figures(metrics: Sequence[str], parts: Mapping[str, tuple[NDArray[np.float32], NDArray[Any]]]) -> dict[str, float]:
    """Every metric of every part's outputs and labels: `accuracy`, or `accuracy_mismatched` of a part with a name."""
    return {
        f"{metric}_{part}" if part else metric: score(metric, *found)
        for part, found in parts.items()
        for metric in metrics
    }


def score(metric: str, outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """The metric by its name: accuracy, f1 (of class 1), f1_macro, f1_micro, matthews; pearson, spearman for scores.

    outputs: (N, C) logits or (N, 1) scores; labels: (N,), or (N, C) of 0 and 1 where any number of labels applies.
    Returns a number of at most 1: 0 for a model that has diverged.
    """
    if not np.isfinite(outputs).all():
        return 0.0
    if metric in _OF_SCORES:
        constant = np.ptp(outputs[:, 0]) == 0 or np.ptp(labels) == 0
        return 0.0 if constant else float(_OF_SCORES[metric](outputs[:, 0], labels).statistic)
    chosen = outputs.argmax(1) if labels.ndim == 1 else outputs >= 0
    return float(_OF_LABELS[metric](labels, chosen))


_OF_SCORES: dict[str, Callable[..., Any]] = {"pearson": pearsonr, "spearman": spearmanr}
_OF_LABELS: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "f1_macro": partial(f1_score, average="macro", zero_division=0.0),
    "f1_micro": partial(f1_score, average="micro", zero_division=0.0),
    "matthews": matthews_corrcoef,
}
