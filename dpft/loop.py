"""The steps of a run, one after the other: the same lines for whoever leads and whoever follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dpft import optimizers, phases
from dpft.methods._method import Adapted
from dpft.preparing import Prepared
from dpft.run import Run
from dpft.tasks.microbatch import microbatches


def stepping(ready: Prepared, run: Run, make: Callable[[Adapted], phases.Step]) -> phases.Phased:
    """The steps of `run`, of which `make` makes those of one phase."""
    return phases.Phased(ready.adapted, run.spec.probe_steps(run.plan.steps), make)


def steps(
    run: Run,
    ready: Prepared,
    optimizer: torch.optim.Optimizer,
    step: phases.Step,
    batches: Iterable[tuple[int, NDArray[np.int64]]],
) -> Iterator[int]:
    """Take a step on each of this rank's numbered `batches`. Yields how many steps are done."""
    ready.adapted.model.per_example = run.plan.budget is not None
    try:
        for number, units in batches:
            optimizers.set_rate(optimizer, run.spec, number, run.plan.steps)
            step(number, microbatches(ready.train, units, ready.hardware.tokens, ready.hardware.device))
            yield number + 1
    finally:
        step.close()
