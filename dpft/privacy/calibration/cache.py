"""A cache of calibrations on disk. An entry is only a hint: calibrate() verifies it.

A missing, corrupt or unwritable file is not an error, only slower.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from dpft.spec import Budget, canonical_json

Calibration = tuple[float, float, str]  # noise multiplier, epsilon_upper, accountant


def path() -> Path:
    """calibration.json in the folder DPFT_CACHE names, else in the user's cache folder."""
    return Path(os.environ.get("DPFT_CACHE") or platformdirs.user_cache_dir("dpft")) / "calibration.json"


def key(rate: float, steps: int, budget: Budget) -> str:
    """The cache key: everything that determines a calibration, including the versions of dpft and the accountants."""
    packages = ("dpft", "prv-accountant", "dp-accounting", "numpy", "scipy")
    return canonical_json(
        {
            "rate": float(rate),
            "steps": steps,
            "epsilon": float(budget.epsilon),
            "delta": float(budget.delta),
            "versions": {name: version(name) for name in packages},
        }
    )


def read(key: str) -> Calibration | None:
    """The entry for `key`, well-formed but not verified; None if there is none."""
    entry = _entries().get(key)
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], str)):
        return None
    if not all(isinstance(value, float) and math.isfinite(value) for value in entry[:2]):
        return None
    return entry[0], entry[1], entry[2]


def write(key: str, found: Calibration) -> None:
    """Add an entry atomically. If two processes write at once, the entry of the first may be lost."""
    noise, upper, name = found
    text = canonical_json({**_entries(), key: [float(noise), float(upper), name]})
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".calibration-")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError:
        return


def _entries() -> dict[str, Any]:
    try:
        entries = json.loads(path().read_text(encoding="ascii"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")
