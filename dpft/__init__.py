"""dpft: fine-tune language models on private text with differential privacy.

>>> from dpft import Budget, Spec, load, train
>>> result = train(Spec(task="glue/sst2", budget=Budget(epsilon=6.7, delta=1e-6)))
>>> load(result.path).predict(["a gorgeous, witty film"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dpft.errors import UserError
from dpft.spec import Budget, Machine, Spec

if TYPE_CHECKING:
    from dpft.exports import export
    from dpft.inference.trained_model import Trained, load
    from dpft.privacy.mechanism.plan import Plan, make_plan
    from dpft.runs.result import Result
    from dpft.training.resume import resume
    from dpft.training.train import train

__version__ = "0.1.0"
__all__ = [
    "Budget", "Machine", "Plan", "Result", "Spec", "Trained", "UserError", "export", "load", "make_plan", "resume",
    "train",
]  # fmt: skip

_LAZY = {
    "export": "dpft.exports",
    "Plan": "dpft.privacy.mechanism.plan",
    "make_plan": "dpft.privacy.mechanism.plan",
    "Result": "dpft.runs.result",
    "resume": "dpft.training.resume",
    "train": "dpft.training.train",
    "Trained": "dpft.inference.trained_model",
    "load": "dpft.inference.trained_model",
}


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for, so that `dpft --help` stays quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'dpft' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
