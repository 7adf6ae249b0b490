"""Runs cells on an existing Ray cluster (extra `ray`; Moritz et al. 2018).

Each worker process runs one cell at a time and caches what its cells share. The comparison's folder, and every path in
the cells, must be the same on all machines; so must the ledger, which then is a PostgreSQL database. A worker that dies
costs no budget twice: its reserved run is resumed once the others are done. Only specs, progress and results pass
through Ray: no row, and nothing that follows from one but a run's own figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpft.compare.cells import Cell
from dpft.compare.events import Listener, Outcome
from dpft.compare.running.ray_worker import REPORT_INTERVAL, Worker, facts
from dpft.compare.running.work import Work
from dpft.errors import UserError
from dpft.privacy.ledger import written
from dpft.privacy.ledger.storage.location import is_url
from dpft.progress import Progress

_DEATHS = 2  # of workers on one cell, before it counts as failed
_CONNECT_SECONDS = 5.0  # seconds to wait for the cluster's port


@dataclass(frozen=True)
class RayExecutor:
    """Executor on the Ray cluster at `address`: HOST:PORT of its head, or "auto" for the one on this machine.

    `cpus`: cores, and so threads, for each cell. A cell takes a GPU where the cluster has one and the device allows it.
    Raises UserError where Ray is not installed or no cluster answers.
    """

    address: str = "auto"
    cpus: int = 1
    ray: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise UserError(f"a cell needs a core or more, got {self.cpus}; pass --cpus-per-cell 1")
        try:
            object.__setattr__(self, "ray", importlib.import_module("ray"))
        except ImportError:
            raise UserError(
                "executor ray needs the extra `ray`, got an installation without it; pip install 'dpft[ray]'"
            ) from None
        _check_reachable(self.address)

    def run(self, cells: Sequence[Cell], work: Work, listener: Listener) -> list[Outcome]:
        """Run all cells; outcomes in their order. Raises UserError where the cluster cannot run them."""
        listener.stage("connecting to the cluster")
        with self._cluster():
            self._check_ledgers(cells, work)
            return WorkerPool(self, cells, work, listener).outcomes()

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[None]:
        """Connect to the cluster. An existing connection is used and kept."""
        if self.ray.is_initialized():
            yield
            return
        try:
            self.ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            what = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise UserError(
                f"--ray-address must be a running cluster's, got {self.address!r} ({what}); "
                "see `ray status`, or start one with `ray start --head`"
            ) from None
        try:
            yield
        finally:
            self.ray.shutdown()

    def _check_ledgers(self, cells: Sequence[Cell], work: Work) -> None:
        machines = sum(bool(node["Alive"]) for node in self.ray.nodes())
        place = work.place.ledger
        if machines > 1 and not is_url(place):
            raise UserError(
                f"cells on {machines} machines must share a ledger in PostgreSQL, got the file {str(place)!r}; "
                "pass --ledger postgresql+psycopg://USER@HOST/DATABASE"
            )
        if machines > 1 and any(cell.trials is not None for cell in cells):
            raise UserError(
                f"a search must keep its own ledgers on one machine's disk, got cells on {machines} machines; search "
                "with --executor local"
            )

    def needs(self, work: Work) -> dict[str, Any]:
        """Resources that a cell requests from Ray. Memory as the plan measured it, where it did."""
        gpu = work.place.machine.device != "cpu" and any(one.get("GPU", 0) >= 1 for one in self._machines())
        plan = work.folder.plan() or {"cells": [], "machine": None}
        measured = not gpu and plan.get("machine") == vars(work.place.machine)
        memory = max((one.get("mebibytes") or 0 for one in plan["cells"]), default=0) if measured else 0
        return {"num_cpus": self.cpus, "num_gpus": int(gpu), "memory": int(memory * 2**20)}

    def room(self, needs: Mapping[str, Any]) -> int:
        """How many such cells an idle cluster can run at once."""
        asked = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": needs["memory"]}
        return sum(
            min(int(one.get(name, 0) // much) for name, much in asked.items() if much) for one in self._machines()
        )

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def here(self, *, soft: bool) -> Any:
        """Ray's scheduling strategy for this machine; `soft`: a preference."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        node = self.ray.get_runtime_context().get_node_id()
        return strategies.NodeAffinitySchedulingStrategy(node, soft=soft)


class WorkerPool:
    """The workers of a comparison, and the cell that each is running."""

    def __init__(self, executor: RayExecutor, cells: Sequence[Cell], work: Work, listener: Listener) -> None:
        self.executor, self.ray, self.cells, self.work, self.listener = executor, executor.ray, cells, work, listener
        self.needs = executor.needs(work)
        self.size = min(executor.room(self.needs), len(cells))
        if not self.size:
            raise self._too_small("which none has")
        queue = importlib.import_module("ray.util.queue")
        self.empty = queue.Empty
        self.events = queue.Queue(
            actor_options={"num_cpus": 0, "scheduling_strategy": executor.here(soft=True)}
        )  # on this machine: it ends with this process
        if not is_url(work.place.ledger):  # a machine that joins later must not create its own ledger
            self.needs["scheduling_strategy"] = executor.here(soft=False)
        place = dataclasses.replace(work.place, ledger=written(work.place.ledger))  # without a password
        self.words = (str(work.folder.path.resolve()), os.getcwd(), place, executor.cpus, self.events)
        self.waiting = deque(range(len(cells)))
        self.broken: list[int] = []  # cells whose worker died: resumed when no worker is busy
        self.deaths = dict.fromkeys(range(len(cells)), 0)
        self.progress: dict[int, Progress] = {}
        self.done: dict[int, Outcome] = {}
        self.busy: dict[Any, tuple[Any, int | None]] = {}  # object ref -> worker and its cell; None: the worker starts
        self.failed_starts = 0

    def outcomes(self) -> list[Outcome]:
        try:
            self.listener.stage(f"waiting for {self.size} worker{'s' if self.size > 1 else ''}")
            self._start_workers(self.size)
            while len(self.done) < len(self.cells):
                self._wait_once()
            return [self.done[number] for number in range(len(self.cells))]
        finally:
            with contextlib.suppress(Exception):  # a cluster that is gone has nothing to stop
                for worker, _ in self.busy.values():
                    self.ray.kill(worker)
                self.events.shutdown(force=True)

    def _wait_once(self) -> None:
        """Wait briefly for the next finished worker, then assign the next cells."""
        if not self.busy:  # all remaining cells lost their worker, and no other worker uses the folder
            self.work.folder.wait_for_workers()
            self.work.folder.recover()
            self.waiting.extend(self.broken)
            self.broken.clear()
            self._start_workers(min(self.size, len(self.waiting)))
        nobody = all(number is None for _, number in self.busy.values())
        if nobody and not self.executor.room(self.needs):
            raise self._too_small("which none has any more")
        ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=REPORT_INTERVAL)
        self._forward_progress()
        for ref in ready:
            self._call_returned(ref)

    def _too_small(self, found: str) -> UserError:
        memory = f" and {self.needs['memory'] / 2**20:.0f} MiB" if self.needs["memory"] else ""
        gpu = " and a GPU" if self.needs["num_gpus"] else ""
        return UserError(
            f"a cell must fit on a machine of the cluster, got {self.needs['num_cpus']} cores{gpu}{memory} for it, "
            f"{found}; lower --cpus-per-cell, or add such a machine"
        )

    def _start_workers(self, count: int = 1) -> None:
        for _ in range(count):
            worker = self.ray.remote(Worker).options(**self.needs).remote(*self.words)
            self.busy[worker.ready.remote()] = (worker, None)

    def _call_returned(self, ref: Any) -> None:
        worker, number = self.busy.pop(ref)
        errors = self.ray.exceptions
        try:
            found = self.ray.get(ref)
        except errors.RayTaskError as error:  # an error raised by the cell itself, a full disk, ends all
            raise error.cause from None
        except errors.RayError:
            self.ray.kill(worker)  # one that cannot be reached may be alive
            self._worker_died(number)
            return
        if number is None and found != facts(self.work.folder):
            theirs = found[0] if isinstance(found, tuple) else found
            self.ray.kill(worker)
            raise UserError(
                "every machine of the cluster must have this dpft and see the comparison's folder, got a worker "
                f"with {theirs}; install it there, or put the folder on a shared disk"
            )
        if number is not None:
            self._forward_progress()
            self._cell_ended(number, found)
        self._assign_next(worker)

    def _assign_next(self, worker: Any) -> None:
        if not self.waiting:
            self.ray.kill(worker)
            return
        number = self.waiting.popleft()
        cell = self.cells[number]
        self.progress[number] = self.listener.began(cell, number + 1, len(self.cells))
        self.busy[worker.do.remote(cell, number)] = (worker, number)

    def _worker_died(self, number: int | None) -> None:
        if number is None:
            self.failed_starts += 1
            if self.failed_starts > self.size:
                raise UserError(
                    f"a worker must start on the cluster, got {self.failed_starts} that died at once; "
                    "see Ray's logs there"
                )
            self._start_workers()
            return
        self.deaths[number] += 1
        if self.deaths[number] < _DEATHS:
            self.broken.append(number)
        else:
            what = f"its worker died {_DEATHS} times (out of memory?); the same command resumes it"
            self._cell_ended(number, Outcome(self.cells[number], None, what, "failed"))
        if self.waiting:
            self._start_workers()

    def _cell_ended(self, number: int, outcome: Outcome) -> None:
        self.done[number] = outcome
        self.listener.ended(outcome)

    def _forward_progress(self) -> None:
        """Forward the workers' progress to the listener."""
        while True:
            try:
                number, what, words = self.events.get_nowait()
            except (self.empty, self.ray.exceptions.RayError):  # without progress reports the cells go on
                return
            if number not in self.done:
                getattr(self.progress[number], what)(*words)


def _check_reachable(address: str) -> None:
    """Raise UserError where nothing listens at `address`: Ray itself would wait for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--ray-address must be HOST:PORT of a cluster's head, or auto, got {address!r}; "
            "run dpft on a machine of the cluster"
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--ray-address must be a running cluster's, got {address!r} ({error.strerror or 'no answer'}); "
            "see `ray status`, or start one with `ray start --head`"
        ) from None
