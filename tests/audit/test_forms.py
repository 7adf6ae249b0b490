"""The audit of runs that normalise every gradient: a sound one passes, a fault is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from dpft.audit import whitebox
from dpft.audit.path import Path
from dpft.privacy.step import PrivateStep
from dpft.trained import Trained
from tests.audit.alarms import lasting
from tests.audit.conftest import EXAMPLES
from tests.audit.test_faults import RISK, STEPS


def with_form(trained: Trained, **changes: Any) -> Trained:
    """The same model as a run of other options."""
    run = trained.run
    spec = dataclasses.replace(run.spec, **changes)
    plan = dataclasses.replace(run.plan, clipping=spec.clipping)
    return dataclasses.replace(trained, run=dataclasses.replace(run, spec=spec, plan=plan))


def failed(trained: Trained, path: Path) -> set[str]:
    return {c.name for c in whitebox.checks(trained, path, EXAMPLES, STEPS, RISK) if not c.passed}


NORMALISE = {"clipping": "normalise"}


def test_a_sound_path_that_normalises_passes(trained: Trained) -> None:
    # At a risk of 1 % an audit: three alarms in a row have a chance of 1e-6.
    assert lasting(lambda: failed(with_form(trained, **NORMALISE), Path())) == set()


class Unnormalised(PrivateStep[Any]):
    """Injected bug: the constant that keeps a short gradient short is taken off the norm."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.clipper.factors = lambda norms, clip: clip / (norms / 2 + 0.01)  # type: ignore[attr-defined]


def test_a_faulty_constant_fails_by_the_check_that_is_meant_for_it(trained: Trained) -> None:
    assert "sensitivity, huge row" in failed(with_form(trained, **NORMALISE), Path(step=Unnormalised))


def test_the_audit_leaves_the_weights_as_they_are(trained: Trained) -> None:
    before = [p.detach().clone() for p in trained.adapted.private]
    failed(with_form(trained, **NORMALISE), Path())
    assert all(torch.equal(a, b) for a, b in zip(before, trained.adapted.private, strict=True))
