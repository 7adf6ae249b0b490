"""Estimate time and memory of a run from a few steps on synthetic texts. No private row is timed."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.inference import outputs
from dpft.inference.build import BuiltModel, build_model, resolve_hardware
from dpft.machine.hardware import Hardware
from dpft.models.adapted import AdaptedModel
from dpft.privacy.ledger import Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import NonPrivateStep, PrivateStep
from dpft.privacy.randomness import Secret
from dpft.spec import Budget, Machine, Spec
from dpft.tasks import Task, sample
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches

_ROWS, _MOST_ROWS = 16, 512
_SECONDS = 1.5  # of measuring one kind of step: long enough for a plan, short enough for many cells
_SEED = 11
Step = PrivateStep[Batch] | NonPrivateStep[Batch]


@dataclass(frozen=True)
class Cost:
    """Measured cost, in seconds and MiB.

    `setup`: building the model. `step`: an empty step; `row`: each row of a step; `judged`: each row that is evaluated.
    `mebibytes`: peak memory. `trained`: number of trainable parameters. `frozen`: the encoder is frozen, so that each
    row passes it only once.
    """

    setup: float
    step: float
    row: float
    judged: float
    mebibytes: float
    trained: int
    frozen: bool

    def seconds(self, plan: Plan, task: Task) -> float | None:
        """Estimated seconds of a whole run; None if a unit has several rows.

        Then the number of units is public but the number of rows is not. The estimate is written to files, and from
        the estimates of two plans anybody could compute the number of rows.
        """
        if task.train.units is not None:
            return None
        rows = plan.expected_batch
        judged = sum(len(rows) for rows in task.judged.values()) + (len(task.train) if self.frozen else 0)
        return self.setup + plan.steps * (self.step + rows * self.row) + judged * self.judged


def kind(spec: Spec, task: Task) -> Spec:
    """`spec` reduced to what determines its cost: specs that agree in it need one measurement."""
    private = None if spec.budget is None else Budget(1.0, 1e-9)
    return dataclasses.replace(
        Spec(), model=spec.model, method=spec.method, options=spec.options, representation=spec.representation,
        max_length=spec.max_length, optimizer=spec.optimizer, budget=private, learning_rate=1e-6, clip=1.0,
        task=f"{'pairs' if task.train.pairs is not None else 'texts'} of {len(task.labels)}, {task.objective.kind}",
    )  # fmt: skip


def measure(spec: Spec, task: Task, machine: Machine) -> Cost:
    """Measure the cost of steps of `spec` on public texts (the sample task's), with as many labels as `task`."""
    resolved, paired = resolve_hardware(spec, machine), task.train.pairs is not None
    with _peak(resolved.device) as peak:
        started = time.perf_counter()
        model = build_model(spec, len(task.labels), paired, resolved, objective=task.objective)
        setup = time.perf_counter() - started
        public = _public(task)
        seen = encode(public, model.tokenizer, spec.representation, spec.max_length)
        judged = _seconds_per_evaluated_row(spec, model, public, resolved)
        if model.adapted.frozen:
            seen = seen.with_features(outputs.features(model.adapted.model, seen, resolved))
        optimizer = torch.optim.Adam(list(model.adapted.updated.values()), lr=1e-9)
        model.adapted.model.per_example = spec.budget is not None
        with _stepper(spec, model.adapted, optimizer) as step:
            empty, row = _timed(step, seen, resolved.tokens, resolved.device)
    trained = sum(p.numel() for p in model.adapted.updated.values())
    return Cost(setup, empty, row, judged, peak[0], trained, model.adapted.frozen)


def _seconds_per_evaluated_row(spec: Spec, model: BuiltModel, public: Examples, resolved: Hardware) -> float:
    """Seconds of one row, from a few rows and then from as many as take about _SECONDS."""
    count, seconds = _ROWS, 0.0
    for _ in range(2):
        rows = encode(public.first(count), model.tokenizer, spec.representation, spec.max_length)
        started = time.perf_counter()
        outputs.logits(model.adapted.model, rows, resolved)
        seconds = (time.perf_counter() - started) / count
        count = int(min(_MOST_ROWS, max(_ROWS, _SECONDS / max(seconds, 1e-9))))
    return seconds


def _timed(step: Step, rows: Encoded, tokens: int, device: torch.device) -> tuple[float, float]:
    """Seconds of an empty step, and additional seconds per row."""

    def take(number: int, count: int) -> float:
        started = time.perf_counter()
        step(number, microbatches(rows, np.arange(count), tokens, device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    take(0, _ROWS)  # warm-up
    empty, some = take(1, 0), take(2, _ROWS)
    count = int(min(_MOST_ROWS, max(_ROWS, _ROWS * _SECONDS / max(some, 1e-6))))
    many = take(3, count) if count > _ROWS else some
    return empty, max(many - empty, 0.0) / count


@contextlib.contextmanager
def _stepper(spec: Spec, adapted: AdaptedModel, optimizer: torch.optim.Optimizer) -> Iterator[Step]:
    """The step that training uses. A private one charges a temporary ledger, because writing to disk takes time."""
    if spec.budget is None:
        yield NonPrivateStep(adapted, Plan(0.5, 4, 0.0, None, _ROWS, None, None, None), optimizer)
        return
    plan = Plan(0.5, 4, 1.0, spec.clip or 1.0, _ROWS, spec.budget, spec.budget.epsilon, "none")
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "probe.sqlite") as ledger:
        ledger.reserve("probe", rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=1e-9, epsilon=1.0)
        step = PrivateStep(adapted, plan, optimizer, ledger, Secret(), "probe")
        try:
            yield step
        finally:
            step.close()


def _public(task: Task) -> Examples:
    joined = task.objective.joined
    short, _ = sample.generate(2 * _MOST_ROWS * joined, _SEED)
    texts = [". ".join(short[start : start + joined]) for start in range(0, len(short), joined)]
    pairs = texts[_MOST_ROWS:] if task.train.pairs is not None else None
    return task.objective.placeholder_rows(texts[:_MOST_ROWS], pairs, len(task.labels))


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[list[float]]:
    """Peak MiB of this process in the block (on CUDA: of its tensors); since process start if it cannot be reset."""
    found = [0.0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) / 2**20
        return
    status = Path("/proc/self/status")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    yield found
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage(2): bytes on macOS, KiB on Linux
    found[0] = peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
