"""The training loop, the same for rank 0 and for the ranks that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dpft.data.batch import Batch
from dpft.runs.folder import Run
from dpft.tokens.microbatch import microbatches
from dpft.training import optimizers
from dpft.training.preparation import Prepared


class Step(Protocol):
    """One optimizer step on a logical batch, private or not."""

    def __call__(self, step: int, microbatches: Iterable[Batch]) -> None: ...
    def close(self) -> None: ...


def steps(
    run: Run,
    ready: Prepared,
    optimizer: torch.optim.Optimizer,
    step: Step,
    batches: Iterable[tuple[int, NDArray[np.int64]]],
) -> Iterator[int]:
    """Take one step on each batch. Yields the number of steps done.

    batches: (step number, (n,) unit numbers of this rank's share).
    """
    ready.adapted.model.per_example = run.plan.budget is not None
    try:
        for number, units in batches:
            optimizers.set_rate(optimizer, run.spec, number, run.plan.steps)
            step(number, microbatches(ready.train, units, ready.hardware.tokens, ready.hardware.device))
            yield number + 1
    finally:
        step.close()
