"""Measurements: interleaved timing rounds, matrix-product flops, peak flops of the machine, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch
from dpft.benchmarks._work import Variant
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]


@dataclass
class Cost:
    """Measured rounds of one variant. speeds: examples/s. fractions: share of the peak flops of its precision."""

    precision: str
    flops: float
    speeds: list[float] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)


def interleaved(
    variants: Mapping[str, Variant], batches: Sequence[NDArray[np.int64]], device: torch.device
) -> dict[str, Cost]:
    """Every variant takes one step on each batch, in alternating order, so that drift of the machine affects all.

    The first batch is not timed: it warms up, and its flops are counted. Raises RuntimeError if weights do not change.
    """
    before = {name: [p.detach().clone() for p in v.trained.values()] for name, v in variants.items()}
    costs = {name: Cost(v.precision, flops(v, batches[0])) for name, v in variants.items()}
    for number, drawn in enumerate(batches[1:]):
        peaks = {precision: peak(precision, device) for precision in sorted({c.precision for c in costs.values()})}
        for name in list(variants)[:: -1 if number % 2 else 1]:
            cost, speed = costs[name], _speed(variants[name], drawn, device)
            cost.speeds.append(speed)
            cost.fractions.append(speed * cost.flops / peaks[cost.precision])
    for name, variant in variants.items():
        if all(torch.equal(old, new) for old, new in zip(before[name], variant.trained.values(), strict=True)):
            raise RuntimeError(f"a timed variant must train, got {name} with its weights unmoved")
    return costs


def ratio(of: Cost, over: Cost) -> list[float]:
    """How many times as fast `of` is as `over`, for each round."""
    return [a / b for a, b in zip(of.speeds, over.speeds, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def flops(variant: Variant, drawn: NDArray[np.int64]) -> float:
    """Matrix-product flops per example of one step: forward and backward, with padding.

    torch does not count SDPA on the CPU by itself, so it is added here. Elementwise products are not counted.
    """
    on_cpu = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        rows = variant(drawn)
    return float(counter.get_total_flops()) / max(1, rows)


def peak(precision: str, device: torch.device) -> float:
    """Flops per second of a large square matrix product, the best of three."""
    size = 2048 if device.type == "cpu" else 8192
    x = torch.ones(size, size, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[precision], device=device)
    times = []
    for _ in range(3):
        start = _clock(device)
        torch.mm(x, x)
        times.append(_clock(device) - start)
    return float(2 * size**3 / min(times))


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in MiB (on CUDA: of its tensors on the device)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _speed(variant: Variant, drawn: NDArray[np.int64], device: torch.device) -> float:
    start = _clock(device)
    rows = variant(drawn)
    return rows / (_clock(device) - start)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))
