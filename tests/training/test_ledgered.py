"""Whole runs in one ledger: populations, limits, databases, disks that are full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dpft import Budget, Machine, Spec, UserError, resume, train
from dpft.privacy.ledger import Ledger, LedgerError, OverLimit
from dpft.runs.folder import Run
from tests import postgres_server
from tests.stopping import StopAt

FP32 = Machine(device="cpu", precision="fp32")


@pytest.fixture
def spec(tiny_bert: Path, glue_folder: Callable[..., Path]) -> Spec:
    return Spec(
        task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), options={"dim": 12},
        budget=Budget(8.0, 1e-4), batch_size=40, epochs=1, learning_rate=3e-2, max_length=16,
    )  # fmt: skip


def test_runs_on_the_same_data_in_another_dress_share_a_population(spec: Spec, tmp_path: Path) -> None:
    train(spec, runs=tmp_path / "runs", machine=FP32)
    dressed = tmp_path / "dressed"
    dressed.mkdir()
    table = pd.read_parquet(Path(str(spec.data)) / "train.parquet").sample(frac=0.8, random_state=0)
    table.assign(label=1 - table.label).to_parquet(dressed / "train.parquet")
    pd.read_parquet(Path(str(spec.data)) / "validation.parquet").to_parquet(dressed / "validation.parquet")
    second = train(replace(spec, data=str(dressed)), runs=tmp_path / "runs", machine=FP32)
    card = json.loads((second.path / "privacy.json").read_text())
    together = card["population"]
    assert together["runs"] == 2
    assert card["epsilon"] == second.epsilon < together["composition"]["epsilon"] < together["filter"]["epsilon"]
    assert set(together) == {"id", "runs", "delta", "composition", "filter", "reason"}
    assert any("later runs" in line for line in card["does_not_cover"])


def test_a_run_beyond_its_limit_is_refused_before_the_model_is_loaded_and_leaves_nothing(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as book:
        book.limit("team", epsilon=7.0, delta=1e-4, new=True)

    def never(*_: object) -> None:
        raise AssertionError("the rows were used")

    with monkeypatch.context() as patched:
        patched.setattr("dpft.training.train.prepare", never)
        with pytest.raises(OverLimit, match=r"ε 7 at δ 0.0001.*pass --epsilon 6\."):
            train(spec, runs=tmp_path / "runs", machine=FP32, population="team")
    assert not (tmp_path / "runs").exists()
    with Ledger(tmp_path / "ledger.sqlite") as book:
        assert book.rows() == 2
    result = train(replace(spec, budget=Budget(6.5, 1e-4)), runs=tmp_path / "runs", machine=FP32, population="team")
    assert result.epsilon is not None
    assert result.epsilon <= 6.5
    with pytest.raises(OverLimit, match="1 run"):
        train(spec, runs=tmp_path / "runs", machine=FP32)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_run_without_privacy_has_no_population(spec: Spec, tmp_path: Path) -> None:
    bare = replace(spec, budget=None)
    with pytest.raises(UserError, match="drop --population"):
        train(bare, runs=tmp_path / "runs", machine=FP32, population="team")
    train(bare, runs=tmp_path / "runs", machine=FP32)
    assert not (tmp_path / "ledger.sqlite").exists()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server.running() as url:
        yield url


def test_a_run_is_charged_to_postgres_broken_off_and_resumed(
    spec: Spec, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a URL taken for a path; its password in the run folder."""
    stop = StopAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", ledger=server, machine=FP32, progress=stop)
    assert not any(postgres_server.PASSWORD.encode() in file.read_bytes() for file in stop.path.rglob("*.json"))
    run = Run.open(stop.path)
    assert isinstance(run.ledger, str)
    with pytest.raises(LedgerError, match="PGPASSWORD"):
        resume(stop.path, machine=FP32)
    monkeypatch.setenv("DPFT_LEDGER", server)
    result = resume(stop.path, machine=FP32)
    with Ledger(server) as book:
        assert book.charged(run.id) == run.plan.steps == result.steps
        assert book.is_settled(run.id)
        book.verify(run.ledger_head)


CHILD = """
import json, os, sys
from dpft import Machine, Spec, UserError, train
from dpft.progress import Progress
sys.path.insert(0, sys.argv[4])
class Fill(Progress):
    def stepped(self, done, epsilon):
        os.write(1, f"{done}\\n".encode())
        if done == 3:
            exec(sys.argv[3])
spec = Spec.from_json(json.loads(sys.argv[1]))
try:
    train(spec, runs=sys.argv[5], ledger=sys.argv[2], machine=Machine(device="cpu", precision="fp32"), progress=Fill())
except (UserError, OSError) as error:
    print("stopped", type(error).__name__)
"""
LIMIT_FILES = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = os.path.getsize(sys.argv[2] + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (log + 8000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""
FILL_DISK = """
with open(os.path.join(os.path.dirname(sys.argv[2]), "filler"), "wb", buffering=0) as filler:
    for size in (65536, 4096, 512):
        try:
            while filler.write(bytes(size)): pass
        except OSError: pass
"""


def stopped(spec: Spec, ledger: Path, runs: Path, trouble: str) -> int:
    """Train until `trouble`, which comes after three steps, stops it; how many steps were taken."""
    words = [json.dumps(spec.to_json()), str(ledger), trouble, str(Path(__file__).parents[2]), str(runs)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, env=env, check=False)
    *steps, last = done.stdout.splitlines()
    assert last == "stopped StorageError", done.stderr[-500:]
    return len(steps)


def assert_intact(ledger: Path, runs: Path, steps: int) -> None:
    """Every step that was taken is charged, none more; the run can go on."""
    (folder,) = runs.iterdir()
    run = Run.open(folder)
    with Ledger(ledger) as book:
        book.verify(run.ledger_head)
        assert book.charged(run.id) == steps
    resume(folder, machine=FP32)
    with Ledger(ledger) as book:
        assert book.charged(run.id) == run.plan.steps


@pytest.mark.slow  # as a full disk, which is tried every time
def test_a_file_that_can_grow_no_more_stops_the_run_before_the_release(spec: Spec, tmp_path: Path) -> None:
    longer = replace(spec, epochs=5.0)
    steps = stopped(longer, tmp_path / "ledger.sqlite", tmp_path / "runs", LIMIT_FILES)
    assert 3 <= steps < 20
    assert_intact(tmp_path / "ledger.sqlite", tmp_path / "runs", steps)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_run_before_the_release(spec: Spec, tmp_path: Path, small_disk: Path) -> None:
    longer = replace(spec, epochs=2.0)
    steps = stopped(longer, small_disk / "ledger.sqlite", tmp_path / "runs", FILL_DISK)
    assert 3 <= steps < 20
    (small_disk / "filler").unlink()
    assert_intact(small_disk / "ledger.sqlite", tmp_path / "runs", steps)


def test_a_ledger_that_cannot_be_written_stops_the_run_before_its_folder(spec: Spec, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    Ledger(ledger).close()
    if subprocess.run(["chattr", "+i", ledger], capture_output=True).returncode:
        pytest.skip("needs the right to make a file immutable")
    try:
        with pytest.raises(LedgerError, match=r"readonly|unable to open"):
            train(spec, runs=tmp_path / "runs", machine=FP32)
        assert not list((tmp_path / "runs").glob("*"))
    finally:
        subprocess.run(["chattr", "-i", ledger], check=True)
    train(spec, runs=tmp_path / "runs", machine=FP32)
