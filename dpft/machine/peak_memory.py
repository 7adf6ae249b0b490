"""The most memory that training held at once: of the device's tensors on CUDA, else of the whole process."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STEP = 32  # MiB that a figure is rounded up to: it follows the rows drawn, and need not tell much of them
_PROCESS = Path("/proc/self")


def forget_peak(device: torch.device) -> bool:
    """Begin anew. False where this system cannot: then a peak would be that of earlier work too."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        (_PROCESS / "clear_refs").write_text("5")  # proc(5): the peak falls to what is held now
    except OSError:
        return False
    return True


def peak_mib(device: torch.device) -> int | None:
    """MiB since `forget_peak`, rounded up to a multiple of 32; None where the system does not tell."""
    if device.type == "cuda":
        return _rounded(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return _rounded(int(found[1]) / 2**10) if found else None


def _rounded(mib: float) -> int:
    return -int(-mib // _STEP) * _STEP
