"""Cells on a real Ray cluster on this machine: two workers, deaths, and what is refused before anything is spent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft.compare import folder as folders
from dpft.compare.cells import Cell
from dpft.compare.events import SilentListener
from dpft.compare.folder import ComparisonFolder
from dpft.compare.planning import comparison_plan
from dpft.compare.running import ray_executor
from dpft.compare.running.ray_executor import RayExecutor
from dpft.compare.running.run_cell import DiskFull
from dpft.compare.running.run_cells import LocalExecutor, run_all_cells
from dpft.compare.running.work import Work
from dpft.errors import UserError
from dpft.machine.memo import CachingMemo
from dpft.progress import Progress
from tests.compare.conftest import Cells, Heard, reserved

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(shared_folder: Path) -> Iterator[Any]:
    """One machine of two cores, whose workers are not nice: other tests run beside these."""
    from ray.cluster_utils import Cluster

    quiet = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    with pytest.MonkeyPatch.context() as patch:  # workers inherit what is set when the cluster starts
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("DPFT_CACHE", str(shared_folder / "cache"))
        found = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 2, **quiet})
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def executor(cluster: Any) -> RayExecutor:
    return RayExecutor(cluster.address)


class ActingProgress(Progress):
    def __init__(self, act: Callable[[int], None]) -> None:
        self.act = act

    def stepped(self, done: int, epsilon: float | None) -> None:
        self.act(done)


class Order(Heard):
    """How many cells were at work at once; `act` is called with the steps that are told."""

    def __init__(self, act: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.act, self.running, self.most = act, 0, 0

    def began(self, cell: Cell, number: int, count: int) -> Progress:
        self.running += 1
        self.most = max(self.most, self.running)
        return ActingProgress(self.act)

    def ended(self, outcome: Any) -> None:
        self.running -= 1
        super().ended(outcome)


def planned(cells: tuple[Cell, ...], work: Work) -> None:
    found = comparison_plan(cells, work.place, {}, CachingMemo(), SilentListener(), measured=False)
    work.folder.write({**work.place.to_json(), **found.to_json()})


def workers(cluster: Any) -> list[int]:
    """The processes of that cluster that are at a cell."""
    (raylet,) = cluster.head_node.all_processes["raylet"]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet.process.pid and re.match(rb"ray::\w+\.do", (folder / "cmdline").read_bytes()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_two_workers_find_what_one_process_finds_and_charge_each_cell_once(
    cells: Cells, work: Work, executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rate 1, without privacy, a spec decides its result. Catches: one after the other, charged twice, mixed."""

    class Together(ray_executor.Worker):
        """Begins its first cell when two workers are at one."""

        def do(self, cell: Any, number: int) -> Any:
            here, patient = self.work.folder.path.parent / "at-work", time.monotonic() + 120
            here.mkdir(exist_ok=True)
            (here / str(os.getpid())).touch()
            while len(list(here.iterdir())) < 2 and time.monotonic() < patient:
                time.sleep(0.05)
            return super().do(cell, number)

    monkeypatch.setattr(ray_executor, "Worker", Together)
    bare = cells(batch_size=400, epochs=1, epsilons=["inf"], seeds=2)
    private = cells(epsilons=[8])
    planned((*private, *bare), work)
    heard = Order()
    outcomes = run_all_cells((*private, *bare), work, executor, heard)
    assert [one.error for one in outcomes] == [None] * 6
    assert [one.cell for one in outcomes] == [*private, *bare]
    assert heard.most == 2, "two cells must be at work at once"
    assert len(heard.outcomes) == 6
    assert [(run.charged, run.settled) for run in reserved(Path(work.place.ledger))] == [(5, True)] * 2
    alone = run_all_cells(
        bare, Work(ComparisonFolder(tmp_path / "alone"), work.place), LocalExecutor(), SilentListener()
    )
    assert [o.result and o.result.value for o in outcomes[2:]] == [o.result and o.result.value for o in alone]
    again = run_all_cells((*private, *bare), replace(work, memo=CachingMemo()), executor, SilentListener())
    assert [one.how for one in again] == ["found"] * 6


def test_a_worker_that_dies_costs_no_budget_twice(
    cells: Cells, work: Work, executor: RayExecutor, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a cell that is trained anew after its worker's death; a death that ends the comparison."""

    class Waiting(ray_executor.Worker):
        """Waits, once, for its death, as soon as it has told of a step."""

        def do(self, cell: Any, number: int) -> Any:
            from dpft.compare.running.ray_worker import ForwardedProgress

            stepped, waited = ForwardedProgress.stepped, self.work.folder.path.parent / "waited"

            def halt(told: Any, done: int, epsilon: float | None) -> None:
                last = told.last
                stepped(told, done, epsilon)
                if done and told.last != last and not waited.exists():
                    waited.touch()
                    time.sleep(300)

            ForwardedProgress.stepped = halt  # type: ignore[method-assign]
            return super().do(cell, number)

    monkeypatch.setattr(ray_executor, "Worker", Waiting)
    every = cells(epsilons=[8], epochs=2, methods={"slash": {"options": {"dim": 12}}})
    planned(every, work)
    killed: list[int] = []

    def kill(done: int) -> None:
        if done and not killed:
            killed.extend(workers(cluster))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    outcomes = run_all_cells(every, work, executor, Order(kill))
    assert killed, "no worker was at work"
    assert [(one.error, one.how) for one in outcomes] == [(None, "resumed")]
    assert [(run.charged, run.settled) for run in reserved(Path(work.place.ledger))] == [(20, True)]


@pytest.mark.slow
def test_a_cell_that_kills_its_workers_is_told_and_the_rest_go_on(
    cells: Cells, work: Work, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = every = cells(epsilons=["inf"], seeds=2)

    class Deadly(ray_executor.Worker):
        def do(self, cell: Any, number: int) -> Any:
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().do(cell, number)

    monkeypatch.setattr(ray_executor, "Worker", Deadly)
    planned(every, work)
    outcomes = run_all_cells(every, work, executor, SilentListener())
    assert outcomes[0].cell == first
    assert [one.how for one in outcomes] == ["failed", "trained", "trained", "trained"]
    assert "died 2 times" in str(outcomes[0].error)


@pytest.mark.slow
def test_a_full_disk_at_a_worker_stops_all_in_one_line(
    cells: Cells, work: Work, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(ray_executor.Worker):
        def do(self, cell: Any, number: int) -> Any:
            raise DiskFull("the disk must have room, got none left")

    monkeypatch.setattr(ray_executor, "Worker", Full)
    planned(cells(), work)
    with pytest.raises(DiskFull, match=r"^the disk must have room, got none left$"):
        run_all_cells(cells(), work, executor, SilentListener())


@pytest.mark.slow
def test_a_comparison_killed_with_its_workers_at_work_goes_on(
    cluster: Any, cells: Cells, values: dict[str, Any], tmp_path: Path
) -> None:
    """kill -9 of the whole command; the same command takes up what was broken off. Catches: two workers at one run."""
    words = [
        "compare", "--methods", "bitfit,linear", "--epsilons", "8,inf", "--delta", "1e-4", "--task", values["task"],
        "--data", values["data"], "--model", values["model"], "--batch-size", "40", "--epochs", "20",
        "--max-length", "16", "--precision", "fp32", "--executor", "ray", "--ray-address", cluster.address,
        "--to", str(tmp_path / "c"), "--ledger", str(tmp_path / "ledger.sqlite"), "--yes",
    ]  # fmt: skip
    command = [sys.executable, "-m", "dpft", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not list(tmp_path.glob("c/runs/*/checkpoints/*")) and first.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert first.poll() is None, "it was over before it could be killed"
    first.kill()
    first.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(resumed)" in done.stderr
    assert done.stdout.count("accuracy") == 4
    assert "NOT PRIVATE" in done.stdout
    assert [(run.charged, run.settled) for run in reserved(tmp_path / "ledger.sqlite")] == [(200, True)] * 2
    assert len(list((tmp_path / "c" / "runs").iterdir())) == 4


@pytest.mark.slow
def test_a_worker_of_another_dpft_or_folder_is_refused(
    cells: Cells, work: Work, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(cells(), work)
    monkeypatch.setattr(ray_executor, "facts", lambda _: ("dpft 9.9", ""))
    with pytest.raises(UserError, match=r"must have this dpft and see .* got a worker with dpft 0"):
        run_all_cells(cells(), work, executor, SilentListener())
    assert not Path(work.place.ledger).exists()


@pytest.mark.slow
def test_the_same_trials_for_two_seeds_are_trained_once(cells: Cells, work: Work, executor: RayExecutor) -> None:
    """Catches: two workers at one run, where both need what a spec finds."""
    one = cells(methods={"linear": {}}, epsilons=["inf"])[0]
    twins = (one, replace(one, arm="twin"))
    planned((one,), work)
    assert sorted(o.how for o in run_all_cells(twins, work, executor, SilentListener())) == ["found", "trained"]


def test_a_comparison_waits_for_the_workers_of_one_that_was_killed(
    cells: Cells, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a folder that is tidied up, or a run that is taken up, while another process is at it."""
    monkeypatch.setattr(folders, "PATIENCE", 0.3)
    half = work.folder.runs / "half"
    half.mkdir(parents=True)
    (half / "intent.json").write_text("{}")
    with work.folder.joined(), pytest.raises(UserError, match="got workers of another"):
        run_all_cells(cells(), work, LocalExecutor(), SilentListener())
    assert half.exists()
    work.folder.wait_for_workers()


def test_no_password_goes_to_the_cluster(cells: Cells, work: Work, executor: RayExecutor) -> None:
    """Ray keeps what an actor was made with."""
    url = "postgresql+psycopg://me:hush@localhost/book"
    planned(cells(), work)
    with executor._cluster():
        crew = ray_executor.WorkerPool(
            executor, cells(), replace(work, place=replace(work.place, ledger=url)), SilentListener()
        )
        assert "hush" not in repr(crew.words)
        crew.events.shutdown(force=True)


def test_a_cell_that_no_machine_has_room_for_is_refused(cells: Cells, work: Work, cluster: Any) -> None:
    planned(cells(), work)
    with pytest.raises(UserError, match="must fit on a machine of the cluster, got 64 cores"):
        run_all_cells(cells(), work, RayExecutor(cluster.address, cpus=64), SilentListener())


def test_cells_on_two_machines_need_a_ledger_that_both_reach(cells: Cells, work: Work, cluster: Any) -> None:
    planned(cells(), work)
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    try:
        with pytest.raises(UserError, match="cells on 2 machines must share a ledger in PostgreSQL"):
            run_all_cells(cells(), work, RayExecutor(cluster.address), SilentListener())
    finally:
        cluster.remove_node(second)
    assert not Path(work.place.ledger).exists()


def test_an_address_where_nobody_answers_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UserError, match=r"running cluster's, got '127.0.0.1:\d+' \(Connection refused\)") as caught:
        RayExecutor(f"127.0.0.1:{port}")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["nowhere", "ray://head:10001", "head:", ":6379", "head:0", "head:99999"])
def test_an_address_must_be_a_host_and_a_port(address: str) -> None:
    with pytest.raises(UserError, match="must be HOST:PORT"):
        RayExecutor(address)


def test_no_cluster_at_all_is_told_in_a_line(work: Work, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = RayExecutor()
    monkeypatch.setattr(executor.ray, "is_initialized", lambda: False)

    def none(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify one.")

    monkeypatch.setattr(executor.ray, "init", none)
    with pytest.raises(UserError, match=r"got 'auto' \(Could not find any running Ray instance\.\)") as caught:
        run_all_cells(cells(), work, executor, SilentListener())
    assert "\n" not in str(caught.value)


def test_without_the_extra_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'dpft\[ray\]'"):
        RayExecutor()


def test_a_cell_needs_a_core() -> None:
    with pytest.raises(UserError, match="a core or more, got 0"):
        RayExecutor(cpus=0)
