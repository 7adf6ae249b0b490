"""Choose device, precision, attention implementation and micro-batch size for this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from dpft.errors import UserError
from dpft.spec import Machine

_ROUNDS = 30  # takes 0.25 s; with 6 rounds, one dtype after the other, a busy machine looked like one without bf16


@dataclass(frozen=True)
class Hardware:
    """A Machine with every "auto" resolved.

    `dtype` is that of the frozen backbone; all else stays float32. `tokens` is the token budget of a micro-batch.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str
    tokens: int

    @property
    def precision(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"


def resolve(machine: Machine) -> Hardware:
    """Resolve every "auto" of `machine`. Raises UserError if the device is not available."""
    device = _device(machine.device)
    fast = machine.precision == "bf16" or (machine.precision == "auto" and bf16_is_faster(device))
    # On a CPU, the backward pass of bfloat16 SDPA took 68 % of a step. In float32, and on CUDA, SDPA is as fast.
    attention = "eager" if fast and device.type == "cpu" else "sdpa"
    tokens = machine.tokens_per_microbatch or (2048 if device.type == "cpu" else 65536)
    return Hardware(device, torch.bfloat16 if fast else torch.float32, attention, tokens)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise NotImplementedError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"device must be a cpu or cuda device that torch finds here, got {name!r}; pass --device cpu"
        ) from None
    return device


def bf16_is_faster(device: torch.device) -> bool:
    """True if bfloat16 matrix products are 1.5 times as fast as float32 (with AMX or avx512_bf16: 3 to 8 times)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    took = _seconds(torch.bfloat16, torch.float32)
    return took[0] * 1.5 < took[1]


@torch.no_grad()
def _seconds(*dtypes: torch.dtype) -> list[float]:
    """Seconds of the fastest of many matrix products, for each dtype.

    The dtypes take turns, so that other work on the machine slows all of them or none.
    """
    operands = [(torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)) for dtype in dtypes]
    times: list[list[float]] = [[] for _ in dtypes]
    for _ in range(_ROUNDS):
        for (x, weight), own in zip(operands, times, strict=True):
            start = time.perf_counter()
            nn.functional.linear(x, weight)
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]
