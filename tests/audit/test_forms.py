"""The audit of runs that normalise, or clip in a scaled space: sound ones pass, faults are found."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpft.audit.mechanism import checks
from dpft.audit.mechanism.driver import Mechanism
from dpft.inference.trained_model import Trained
from dpft.privacy.mechanism.step import PrivateStep
from dpft.training import optimizers
from tests.audit.alarms import lasting
from tests.audit.conftest import EXAMPLES
from tests.audit.test_faults import RISK, STEPS
from tests.privacy.mechanism.test_forms import ClippedFirst, NoisedLast


def with_form(trained: Trained, **changes: Any) -> Trained:
    """The same model as a run of other options."""
    run = trained.run
    spec = dataclasses.replace(run.spec, **changes)
    plan = dataclasses.replace(run.plan, clipping=spec.clipping)
    return dataclasses.replace(trained, run=dataclasses.replace(run, spec=spec, plan=plan))


def failed(trained: Trained, mechanism: Mechanism) -> set[str]:
    return {c.name for c in checks.checks(trained, mechanism, EXAMPLES, STEPS, RISK) if not c.passed}


FORMS = [{"clipping": "normalise"}, {"optimizer": "adam_scaled"}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_sound_path_passes_in_every_form(trained: Trained, form: dict[str, Any]) -> None:
    # At a risk of 1 % an audit: three alarms in a row have a chance of 1e-6.
    assert lasting(lambda: failed(with_form(trained, **form), Mechanism())) == set()


def test_scales_are_not_all_one_when_the_audit_reads_them(trained: Trained) -> None:
    # Catches an audit that drives another optimizer than the run's.
    seen: list[list[Tensor]] = []

    class Watched(PrivateStep[Any]):
        def __call__(self, step: int, microbatches: Any) -> None:
            super().__call__(step, microbatches)
            assert self.scales is not None
            seen.append(self.scales)

    failed(with_form(trained, optimizer="adam_scaled"), Mechanism(step=Watched))
    spread = [float(max(s.max() for s in scales) / min(s.min() for s in scales)) for scales in seen]
    assert sum(ratio > 1.2 for ratio in spread) > STEPS // 2


class Peeking(PrivateStep[Any]):
    """Injected bug: the scales are made of the batch that they are to scale."""

    def _sum(self, microbatches: Any) -> list[Tensor]:
        if self.scales is not None:
            batches = list(microbatches)
            scales, self.scales = self.scales, None
            plain = super()._sum(batches)
            self.scales = [s / (1 + p.abs() / (p.abs().mean() + 1e-9)) for s, p in zip(scales, plain, strict=True)]
            return super()._sum(batches)
        return super()._sum(microbatches)


class Unnormalised(PrivateStep[Any]):
    """Injected bug: the constant that keeps a short gradient short is taken off the norm."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.clipper.factors = lambda norms, clip: clip / (norms / 2 + 0.01)  # type: ignore[attr-defined]


FAULTS: list[tuple[dict[str, Any], Any, str]] = [
    ({"optimizer": "adam_scaled"}, ClippedFirst, "next step's sum beside gradients taken one at a time"),
    ({"optimizer": "adam_scaled"}, NoisedLast, "σ of all"),
    ({"optimizer": "adam_scaled"}, Peeking, "scales depend on earlier releases alone"),
    ({"clipping": "normalise"}, Unnormalised, "sensitivity, huge row"),
]


@pytest.mark.parametrize(("form", "step", "caught"), FAULTS, ids=[f[1].__name__ for f in FAULTS])
def test_a_faulty_form_fails_by_the_check_that_is_meant_for_it(
    trained: Trained, form: dict[str, Any], step: Any, caught: str
) -> None:
    assert caught in failed(with_form(trained, **form), Mechanism(step=step))


def test_the_audit_leaves_the_weights_as_they_are(trained: Trained) -> None:
    before = [p.detach().clone() for p in trained.adapted.private]
    failed(with_form(trained, optimizer="adam_scaled"), Mechanism())
    assert all(torch.equal(a, b) for a, b in zip(before, trained.adapted.private, strict=True))
    assert isinstance(optimizers.make(with_form(trained, optimizer="adam_scaled").run.spec,
                                      {"z": nn.Parameter(torch.zeros(1))}), optimizers.ScaledAdam)  # fmt: skip
