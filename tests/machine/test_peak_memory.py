"""Peak memory: of the work since the mark alone, and coarse enough to tell little of the rows drawn."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dpft import Machine, Spec, train
from dpft.machine import peak_memory
from dpft.machine.peak_memory import peak_mib, reset_peak
from dpft.runs.result import Result

CPU = torch.device("cpu")


@pytest.fixture
def _can_forget() -> None:
    if not reset_peak(CPU):
        pytest.skip("needs a Linux that lets a process reset its own peak")


@pytest.mark.usefixtures("_can_forget")
def test_the_peak_is_of_what_came_after_the_mark() -> None:
    # Catches getrusage's maximum, which a second run in the same process would inherit from the first.
    before = peak_mib(CPU)
    assert before is not None
    held = mmap.mmap(-1, 2**28)  # 256 MiB that go back to the system at once
    np.frombuffer(held, np.uint8)[:: mmap.PAGESIZE] = 1
    during = peak_mib(CPU)
    assert during is not None
    assert during >= before + 224
    held.close()
    assert reset_peak(CPU)
    after = peak_mib(CPU)
    assert after is not None
    assert after <= during - 192


def test_a_figure_is_rounded_up_to_32_mib() -> None:
    assert [peak_memory._rounded(x) for x in (0.0, 0.1, 32.0, 32.1, 900.5)] == [0, 32, 32, 64, 928]


def test_a_system_that_does_not_tell_leaves_the_figure_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path / "none")
    assert not reset_peak(CPU)
    assert peak_mib(CPU) is None


@pytest.mark.usefixtures("_can_forget")
def test_a_run_states_its_memory_and_an_older_result_is_still_read(
    tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = str(glue_folder(train=40, validation=20))
    spec = Spec(task="glue/sst2", data=data, model=str(tiny_bert), method="linear", batch_size=20, epochs=1.0)
    result = train(spec, runs=tmp_path / "runs", machine=Machine(device="cpu", precision="fp32"))
    assert result.memory_mib is not None
    assert 32 <= result.memory_mib <= 2**14
    assert result.memory_mib % 32 == 0
    values = result.to_json()
    assert Result.from_json(values).memory_mib == result.memory_mib
    del values["memory_mib"]
    assert Result.from_json(values).memory_mib is None
