"""The world that faults are put into: made once, copied for each test."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from dpft import Budget, Machine, Spec, train
from dpft.progress import Progress
from tests.calling import call
from tests.faults.world import PLANTED, World


class _Stop(Progress):
    def stepped(self, done: int, epsilon: float | None) -> None:
        if done == 4:
            raise KeyboardInterrupt


def _rows(count: int) -> pd.DataFrame:
    words = ("good story", "bad story")
    return pd.DataFrame(
        {
            "sentence": [f"{words[i % 2]} {PLANTED} {i}" for i in range(count)],
            "label": [1 - i % 2 for i in range(count)],
        }
    )


@pytest.fixture(scope="module")
def made(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a world: data, model, ledger, a finished run and one broken off."""
    home = tmp_path_factory.mktemp("world")
    (home / "data").mkdir()
    for split, count in (("train", 400), ("validation", 40)):
        _rows(count).to_parquet(home / "data" / f"{split}.parquet")
    shutil.copytree(tiny_bert, home / "model")
    spec = Spec(
        task="glue/sst2", data="data", model="./model", options={"dim": 8},
        budget=Budget(8.0, 1e-4), batch_size=40, epochs=1, learning_rate=0.03, max_length=32,
    )  # fmt: skip
    fp32, ledger = Machine(device="cpu", precision="fp32"), home / "ledger.sqlite"
    with contextlib.chdir(home):  # the copies' runs then find the copies' data and model
        result = train(spec, runs=home / "runs", ledger=ledger, machine=fp32)
    result.path.rename(home / "runs" / "finished")
    with contextlib.chdir(home), pytest.raises(KeyboardInterrupt):
        train(spec, runs=home / "runs", ledger=ledger, machine=fp32, progress=_Stop())
    (broken,) = (path for path in (home / "runs").iterdir() if path.name != "finished")
    broken.rename(home / "runs" / "broken")
    return home


@pytest.fixture
def world(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[World]:
    """A copy of the world for one test, its runs bound to the copy's ledger."""
    home = tmp_path / "world"
    shutil.copytree(made, home)
    for run in (home / "runs").iterdir():
        about = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**about, "ledger": str(home / "ledger.sqlite")}))
    monkeypatch.setenv("DPFT_LEDGER", str(home / "ledger.sqlite"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(home)

    yield World(home, lambda *words: call(monkeypatch, capfd, *words))
    for file in home.rglob("*"):
        if not file.is_symlink():
            file.chmod(0o700)
