"""Micro-batches: a logical batch, sorted by length and split by a token budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.data.units import Units


def cut(lengths: NDArray[np.int64], tokens: int) -> Iterator[slice]:
    """Slices of rows sorted longest first; rows times longest row of a slice is at most `tokens` (or it is one row)."""
    start = 0
    while start < len(lengths):
        rows = max(1, tokens // max(1, int(lengths[start])))
        yield slice(start, start + rows)
        start += rows


def microbatches(
    data: Encoded, drawn: NDArray[np.int64], tokens: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield the rows of the sampled units as padded batches, longest first. The order in a batch changes no result.

    drawn: (n,) unit numbers, which are row numbers where each row is its own unit; n may be 0. tokens: limit on rows
    times longest row of a batch. The rows of a unit stay together, because they are clipped together: so do the windows
    of a text.
    """
    if data.units is not None:
        yield from _whole_units(data, data.units, drawn, tokens, device)
        return
    order = drawn[np.argsort(-data.lengths[drawn], kind="stable")]
    for part in cut(data.lengths[order], tokens):
        yield collate(data, order[part], device)


def _whole_units(
    data: Encoded, units: Units, drawn: NDArray[np.int64], tokens: int, device: torch.device | str
) -> Iterator[Batch]:
    rows = [units.of_unit(unit) for unit in drawn]
    longest = [int(data.lengths[own].max()) for own in rows]
    batch: list[NDArray[np.int64]] = []
    width = 0
    for unit in np.argsort(np.negative(longest), kind="stable"):
        count = sum(map(len, batch)) + len(rows[unit])
        if batch and count * width > tokens:
            yield _of_units(data, batch, device)
            batch = []
        width = width if batch else longest[unit]
        batch.append(rows[unit])
    if batch:
        yield _of_units(data, batch, device)


def _of_units(data: Encoded, rows: list[NDArray[np.int64]], device: torch.device | str) -> Batch:
    owners = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return replace(collate(data, np.concatenate(rows), device), units=torch.from_numpy(owners).to(device))


def collate(data: Encoded, rows: NDArray[np.int64], device: torch.device | str = "cpu") -> Batch:
    """The batch of some rows, padded to the longest of them."""
    lengths = data.starts[rows + 1] - data.starts[rows]
    columns = np.arange(int(lengths.max()))
    inside = columns < lengths[:, None]
    source = np.where(inside, data.starts[rows][:, None] + columns, 0)
    ids = np.where(inside, data.ids[source], data.padding).astype(np.int64)
    types = (inside & (columns >= data.second[rows][:, None])).astype(np.int64) if data.typed else None
    features, shares = data.frozen_features(rows, source), data.shares
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        allowed=None if inside.all() else torch.from_numpy(inside).to(device),
        types=None if types is None else torch.from_numpy(types).to(device),
        read=torch.from_numpy(data.read[rows].astype(np.int64)).to(device),
        labels=torch.from_numpy(data.labels_of(rows, inside, source)).to(device),
        features=None if features is None else torch.from_numpy(features).to(device),
        shares=None if shares is None else torch.from_numpy(shares[rows]).to(device),
    )
