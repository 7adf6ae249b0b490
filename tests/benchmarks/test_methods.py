"""The benchmarks of methods measure steps that train, and encoders that give the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dpft.benchmarks import inference, methods, ranks
from dpft.benchmarks._work import DpftStep, Work

from dpft.errors import UserError
from dpft.spec import Spec

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["slash:dim=12", "lora:rank=1,alpha=1", "rgp", "full", "linear"])
def test_a_methods_private_and_plain_steps_are_timed_side_by_side(
    name: str, tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path
) -> None:
    method, options = methods.parse(name)
    spec = Spec(
        task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), batch_size=100, method=method,
        options=options,
    )  # fmt: skip
    found = methods.measure(Work(spec, tmp_path, device="cpu", precision="fp32"), repeats=2)
    assert found["private_seconds"]["min"] > 0
    assert found["private_over_plain"]["min"] <= found["private_over_plain"]["median"]
    assert found["trainable"] > 0
    assert "slash" in methods.table([{**found, "method": "slash", "memory_mib": {"private": 1.0, "plain": 1.0}}])


def test_a_frozen_methods_steps_are_timed_on_kept_features(
    tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path
) -> None:
    spec = Spec(task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), batch_size=100, method="linear")
    work = Work(spec, tmp_path, device="cpu", precision="fp32")
    assert DpftStep(work, work.hardware, private=True).rows.features is not None


def test_ranks_are_timed_beside_one_process_on_the_same_batches(
    tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path
) -> None:
    class Crew:
        rows: ClassVar[list[int]] = []

        def step(self, drawn: Any) -> float:
            self.rows.append(len(drawn))
            return 0.5

    spec = Spec(
        task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), batch_size=100, options={"dim": 12}
    )
    found = ranks.measure(Work(spec, tmp_path, device="cpu", precision="fp32"), Crew(), 1, repeats=3)  # type: ignore[arg-type]
    assert len(Crew.rows) == 4
    assert found["ranks_seconds"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert found["times_faster"]["median"] == found["one_process_seconds"]["median"] / 0.5
    assert "1 ranks, 1 thread each" in ranks.table(found)


def test_an_unknown_option_of_a_timed_method_is_one_line() -> None:
    with pytest.raises(UserError, match="the options of lora are"):
        methods.parse("lora:dim=3")


@pytest.mark.parametrize("name", ["slash:dim=12", "adapter:bottleneck=2"])
def test_inference_is_timed_bare_merged_and_unmerged(
    name: str, tiny_bert: Path, glue_folder: Callable[..., Path]
) -> None:
    torch.set_num_threads(1)
    found = inference.measure(name, "glue/sst2", str(glue_folder("sst2")), str(tiny_bert), rows=64, repeats=2)
    assert ("merged" in found["over_bare"]) == name.startswith("slash")
    assert all(r["min"] > 0 for r in found["over_bare"].values())
    assert found["rows"] == 64
