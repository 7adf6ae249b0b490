"""The tensors that go into a model: encoded rows, padded to the longest of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Encoded rows on one device.

    ids: (B, T) int64. allowed: (B, T) bool, None where nothing is padded. types: (B, T) int64, or None.
    read: (B,) int64, the token that is read. labels: (B,) int64 classes or float32 scores.
    """

    ids: Tensor
    allowed: Tensor | None
    types: Tensor | None
    read: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]
