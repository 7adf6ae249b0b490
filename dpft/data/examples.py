"""Examples of a task: texts, their partners, labels, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.tasks.words import Words


@dataclass(frozen=True)
class Rows:
    """Texts, their partners where the task is about pairs, and labels, N of them, as the task's answer has them.

    Texts may lie on a disk: go through them in order. units: (N,) the number of the unit that each row belongs to, from
    0 on; None where each row is its own. digest: names the texts and their order, so that what is made of them may be
    kept; None where nothing is to be kept. words: where the words of each text stand, where they are labelled; labels
    are then (W,), of all texts' words end to end.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: NDArray[Any]
    units: NDArray[np.int64] | None = None
    digest: str | None = None
    words: Words | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def protected(self) -> int:
        """How many units there are: whom privacy is promised to."""
        return len(self) if self.units is None else len(np.unique(self.units))
