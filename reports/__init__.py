"""Run folders in, tables, figures and pages out; torch is never loaded.

>>> from dpft.reports import load_runs, plot_privacy_utility
>>> plot_privacy_utility(load_runs("runs")).savefig("utility.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpft.reports.figures import plot_privacy_utility
    from dpft.reports.output import write_report
    from dpft.reports.reading.frame import load_runs

__all__ = ["load_runs", "plot_privacy_utility", "write_report"]

_LAZY = {
    "load_runs": "dpft.reports.reading.frame",
    "plot_privacy_utility": "dpft.reports.figures",
    "write_report": "dpft.reports.output",
}


def __getattr__(name: str) -> Any:
    """What is asked for, and no more: a command's plot needs no page."""
    if name not in _LAZY:
        raise AttributeError(f"module 'dpft.reports' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
