"""The input tensors of a model: encoded rows, padded to the longest of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Encoded rows on one device.

    ids: (B, T) int64. allowed: (B, T) bool, None where nothing is padded. types: (B, T) int64, or None.
    read: (B,) int64, the index of the token that the head reads. labels: (B, ...), as defined by the objective.
    features: precomputed outputs of a frozen encoder, (B, D), or (B, T, D) where words are labelled; the tokens are
    then unused. units: (B,) int64 from 0 to K - 1, the unit of each row among the K units of the batch; None where
    each row is its own unit. shares: (B,) float32, where rows are windows of longer texts: each window's share of its
    text's judged tokens; None where each row is a whole text.
    """

    ids: Tensor
    allowed: Tensor | None
    types: Tensor | None
    read: Tensor
    labels: Tensor
    features: Tensor | None = None
    units: Tensor | None = None
    shares: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, which: Tensor | slice) -> Batch:
        """A part of the rows, by number, mask or slice."""

        def of(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[which]

        return Batch(
            self.ids[which], of(self.allowed), of(self.types), self.read[which], self.labels[which], of(self.features),
            of(self.units), of(self.shares),
        )  # fmt: skip
