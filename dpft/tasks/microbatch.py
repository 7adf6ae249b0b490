"""Micro-batches: a logical batch sorted by length and cut by a token budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dpft.batch import Batch
from dpft.tasks.encode import Encoded


def cut(lengths: NDArray[np.int64], tokens: int) -> Iterator[slice]:
    """Slices of rows sorted longest first, each with rows times its longest at most `tokens` (or one row)."""
    start = 0
    while start < len(lengths):
        rows = max(1, tokens // max(1, int(lengths[start])))
        yield slice(start, start + rows)
        start += rows


def microbatches(
    data: Encoded, drawn: NDArray[np.int64], tokens: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """The drawn rows as padded batches, longest first. Order inside a logical batch changes nothing.

    drawn: (n,) row numbers, n may be 0. tokens: the most rows times longest row of a batch.
    """
    order = drawn[np.argsort(-data.lengths[drawn], kind="stable")]
    for part in cut(data.lengths[order], tokens):
        yield collate(data, order[part], device)


def collate(data: Encoded, rows: NDArray[np.int64], device: torch.device | str = "cpu") -> Batch:
    """Rows padded to the longest of them."""
    lengths = data.lengths[rows]
    columns = np.arange(int(lengths.max()))
    inside = columns < lengths[:, None]
    source = np.where(inside, data.starts[rows][:, None] + columns, 0)
    ids = np.where(inside, data.ids[source], data.padding).astype(np.int64)
    types = (inside & (columns >= data.second[rows][:, None])).astype(np.int64) if data.typed else None
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        allowed=None if inside.all() else torch.from_numpy(inside).to(device),
        types=None if types is None else torch.from_numpy(types).to(device),
        read=torch.from_numpy(data.read[rows].astype(np.int64)).to(device),
        labels=torch.from_numpy(data.labels[rows]).to(device),
        features=None if data.features is None else torch.from_numpy(data.features[rows]).to(device),
    )
