"""Peak memory of training: of the tensors on the device on CUDA, else of the whole process."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STEP = 32  # MiB; figures are rounded up to a multiple, because peak memory depends on the rows drawn
_PROCESS = Path("/proc/self")


def reset_peak(device: torch.device) -> bool:
    """Reset the peak. Returns False if the system cannot: the peak then includes earlier work."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        (_PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak to the current use
    except OSError:
        return False
    return True


def peak_mib(device: torch.device) -> int | None:
    """Peak in MiB since `reset_peak`, rounded up to a multiple of 32. None if the system does not report it."""
    if device.type == "cuda":
        return _rounded(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return _rounded(int(found[1]) / 2**10) if found else None


def _rounded(mib: float) -> int:
    return -int(-mib // _STEP) * _STEP
