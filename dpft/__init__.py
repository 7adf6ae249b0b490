"""dpft: fine-tune language models on private text with differential privacy.

>>> from dpft import Budget, Spec, load, train
>>> result = train(Spec(task="glue/sst2", budget=Budget(epsilon=6.7, delta=1e-6)))
>>> load(result.path).predict(["a gorgeous, witty film"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dpft.spec import Budget, Machine, Spec, UserError

if TYPE_CHECKING:
    from dpft.exports import export
    from dpft.privacy.plan import Plan, make_plan
    from dpft.result import Result
    from dpft.resuming import resume
    from dpft.trained import Trained, load
    from dpft.training import train

__version__ = "0.1.0"
__all__ = [
    "Budget", "Machine", "Plan", "Result", "Spec", "Trained", "UserError", "export", "load", "make_plan", "resume",
    "train",
]  # fmt: skip

_LAZY = {
    "export": "dpft.exports",
    "Plan": "dpft.privacy.plan",
    "make_plan": "dpft.privacy.plan",
    "Result": "dpft.result",
    "resume": "dpft.resuming",
    "train": "dpft.training",
    "Trained": "dpft.trained",
    "load": "dpft.trained",
}


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for, so that `dpft --help` stays quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'dpft' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
