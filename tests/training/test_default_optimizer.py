"""Which optimizer a run takes that names none, and which is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dpft import Budget, Machine, Spec, UserError, train
from dpft.runs.folder import Run

FP32 = Machine(device="cpu", precision="fp32")
OPTIONS = {"lora": {"rank": 2}, "linear": {}, "rgp": {"rank": 1}, "full": {}}


@pytest.fixture
def spec(glue_folder: Callable[..., Path], tiny_bert: Path) -> Spec:
    return Spec(
        task="glue/sst2", data=str(glue_folder(train=80, validation=20)), model=str(tiny_bert),
        budget=Budget(8.0, 1e-3), batch_size=40, epochs=0.5, learning_rate=0.01, max_length=32,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "private", "wanted"),
    [
        ("lora", True, "adam_scaled"),
        ("linear", True, "adam_scaled"),
        ("lora", False, "adam"),
        ("rgp", True, "adam"),  # what it updates is not what is privatised
        ("full", True, "adam"),  # there are norms alone, no gradient of each example to scale
    ],
)
def test_private_gradients_are_scaled_where_a_method_has_one_for_each_example_of_what_moves(
    spec: Spec, tmp_path: Path, method: str, private: bool, wanted: str
) -> None:
    # Catches: scales for RGP's carriers, which are made anew each step, and a default that ghost clipping refuses.
    asked = replace(spec, method=method, options=OPTIONS[method], budget=spec.budget if private else None)
    kept = Run.open(train(asked, runs=tmp_path / "runs", machine=FP32).path).spec
    assert (kept.optimizer, "optimizer" in kept.chosen) == (wanted, True)
    assert kept.asked().optimizer is None


def test_an_optimizer_that_is_given_stays(spec: Spec, tmp_path: Path) -> None:
    kept = Run.open(train(replace(spec, method="linear", optimizer="sgd"), runs=tmp_path / "runs", machine=FP32).path)
    assert (kept.spec.optimizer, "optimizer" in kept.spec.chosen) == ("sgd", False)


@pytest.mark.parametrize("method", ["rgp", "full"])
def test_scales_that_do_not_fit_a_method_are_refused_in_one_line_and_nothing_is_spent(
    spec: Spec, tmp_path: Path, method: str
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    asked = replace(spec, method=method, options=OPTIONS[method], optimizer="adam_scaled")
    with pytest.raises(
        UserError, match=r"adam_scaled needs per-example gradients.*; pass --optimizer adam$"
    ) as refused:
        train(asked, runs=tmp_path / "runs", ledger=ledger, machine=FP32)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "runs").glob("*"))
