"""The tensors that go into a model: encoded rows, padded to the longest of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Encoded rows on one device.

    ids: (B, T) int64. allowed: (B, T) bool, None where nothing is padded. types: (B, T) int64, or None.
    read: (B,) int64, the token that is read. labels: (B, ...), as the task's objective has them. features: (B, D), or
    (B, T, D) where words are judged, what a frozen encoder made of the rows, where it was computed before; the tokens
    are then not looked at. units: (B,) int64 from 0 to K - 1, which of the batch's K units each row belongs to; None
    where each row is its own.
    """

    ids: Tensor
    allowed: Tensor | None
    types: Tensor | None
    read: Tensor
    labels: Tensor
    features: Tensor | None = None
    units: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, which: Tensor | slice) -> Batch:
        """Some of the rows, by number, by a mask or by a slice."""

        def of(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[which]

        return Batch(
            self.ids[which], of(self.allowed), of(self.types), self.read[which], self.labels[which], of(self.features),
            of(self.units),
        )  # fmt: skip
