"""The answer of tasks that label words: one tag for each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dpft.answers import Classes


@dataclass(frozen=True)
class Tags(Classes):
    """One label for each word: softmax and cross-entropy, averaged over the words of one example and of no other.

    An example without words has a loss of 0. Labels: (B, T) int64 at each word's first token, below 0 at tokens that
    are not judged; or (B,) for rows of a single word, with outputs (B, C).
    """

    kind = "token-classification"
    metrics = ("entity_f1", "entity_precision", "entity_recall")

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.dim() == 2:
            return super().losses(outputs, labels)
        judged = labels >= 0
        known = labels.clamp(min=0).flatten()
        each = nn.functional.cross_entropy(outputs.flatten(0, 1), known, reduction="none").view_as(labels)
        return (each * judged).sum(1) / judged.sum(1).clamp(min=1)
