"""The folder of a comparison: its plan and its runs. A comparison can be killed anywhere and resumed without loss."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dpft.compare.cells import Cell, digest_of
from dpft.errors import UserError
from dpft.runs.folder import Run, write
from dpft.runs.recovery import has_ledger, recover_reserved
from dpft.spec import Spec

FORMAT = 1
_NAME = "comparison.json"
SEARCHED = "search.json"  # in the folder of a run whose hyper-parameters were searched for
_UNFINISHED = {"intent.json", "spec.json", "plan.json"}  # all that a folder holds before it is a complete run
_JOINED = ".workers"
PATIENCE = 60.0  # seconds to wait until the workers of a killed comparison are gone
_SPARE = 16 * 2**20  # free bytes required beyond what the runs need


@dataclass(frozen=True)
class ComparisonFolder:
    """A comparison's folder. `runs` holds one run folder for each cell, as `dpft train` makes it."""

    path: Path

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def plan(self) -> dict[str, Any] | None:
        """The content of comparison.json, None where there is none. Raises UserError where it cannot be read."""
        file = self.path / _NAME
        if not file.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise UserError(f"a comparison must be of format {FORMAT}, got {found['format']}; use another dpft")
            self._cells(found)
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{_NAME} must be one of dpft compare, got another in {str(self.path)!r}; pass another --to"
            ) from None  # fmt: skip

    def cells(self) -> tuple[Cell, ...]:
        """The planned cells. Raises UserError where there is no plan."""
        found = self.plan()
        if found is None:
            raise UserError(f"a comparison's folder must hold {_NAME}, got {str(self.path)!r} without; pass --methods")
        return self._cells(found)

    @staticmethod
    def _cells(plan: Mapping[str, Any]) -> tuple[Cell, ...]:
        return tuple(Cell.from_json(one) for one in plan["cells"])

    def has_same_plan(self, cells: Sequence[Cell], *, grows: bool = False) -> bool:
        """Whether exactly these cells are planned here already. Raises UserError where others are.

        `grows`: the plan may be extended; then whether all of these cells are in the plan.
        """
        if self.plan() is None:
            return False
        known, asked = ({one.digest for one in every} for every in (self.cells(), cells))
        if grows:
            return asked <= known
        if known != asked:
            raise UserError(
                f"a comparison goes on with its own plan, got another for {str(self.path)!r}; "
                "pass another --to, or --to alone to go on"
            )
        return True

    def extended_plan(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """`plan` plus the cells that were planned here before."""
        before = (self.plan() or {"cells": []})["cells"]
        new = {one["digest"] for one in plan["cells"]}
        return {**plan, "cells": [*(one for one in before if one["digest"] not in new), *plan["cells"]]}

    def write(self, plan: Mapping[str, Any]) -> None:
        """Write the plan atomically. Raises UserError where the folder cannot be written."""
        text = json.dumps({"format": FORMAT, **plan}, indent=2, ensure_ascii=False, allow_nan=False)
        try:
            write(self.path / _NAME, f"{text}\n".encode())
        except OSError as error:
            raise UserError(
                f"a comparison's folder must be writable, got {error.strerror} at {str(self.path)!r}; pass another --to"
            ) from None

    def check_disk_space(self, needed: int) -> None:
        """Raise UserError where the disk has too little space for the runs."""
        place = next(one for one in (self.path.resolve(), *self.path.resolve().parents) if one.exists())
        free = shutil.disk_usage(place).free
        if free < needed + _SPARE:
            raise UserError(
                f"the disk must have {(needed + _SPARE) / 2**20:.0f} MiB free for the runs, got {free / 2**20:.0f} MiB "
                f"at {str(place)!r}; make room, or pass another --to"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock: one process works on a comparison. The lock ends with the process."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"a comparison's folder must be writable, got {error.strerror} at {str(self.path)!r}; pass another --to"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"one process works on a comparison, got another at work in {str(self.path)!r}; wait for it"
                ) from None
            yield

    @contextmanager
    def spec_lock(self, spec: str) -> Iterator[None]:
        """Lock: one process at a time works on the spec of that digest. Others wait and then find its run."""
        locks = self.path / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / spec[:32], "a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def joined(self) -> IO[str]:
        """A shared lock that a worker process holds as long as it lives."""
        held = open(self.path / _JOINED, "a+")  # noqa: SIM115  (over NFS a shared lock needs a file that can be read)
        fcntl.flock(held, fcntl.LOCK_SH)
        return held

    def wait_for_workers(self) -> None:
        """Wait until the workers of a killed comparison have ended: two processes must never work on one run."""
        if not (self.path / _JOINED).exists():
            return
        until = time.monotonic() + PATIENCE
        with open(self.path / _JOINED, "a+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise UserError(
                            f"one comparison works in a folder, got workers of another in {str(self.path)!r}; "
                            "wait for them, or stop them on the cluster"
                        ) from None
                    time.sleep(0.2)

    def found(self) -> dict[str, Path]:
        """Run folders by the digest of their cell. Of several, a finished one is preferred, then a resumable one."""
        every: dict[str, Path] = {}
        for path in self._folders():
            for digest in _digests(path):
                if digest not in every or (path / "result.json").is_file():
                    every[digest] = path
        return every

    def _folders(self) -> list[Path]:
        every = sorted(self.runs.iterdir()) if self.runs.is_dir() else []
        return [path for path in every if path.is_dir() and not path.name.startswith(".")]

    def recover(self) -> None:
        """Recover runs interrupted while they were created: keep reserved ones to resume, remove others, leave those
        without their ledger."""
        for path in self._folders():
            if (path / "run.json").is_file():
                continue
            begun = Run.intended(path)
            if begun is not None and (not has_ledger(begun) or recover_reserved(path) is not None):
                continue
            if {file.name for file in path.iterdir() if file.suffix != ".tmp"} <= _UNFINISHED:
                shutil.rmtree(path)


def _digests(path: Path) -> list[str]:
    """Digests of the cells a run folder belongs to: of its spec, and of its search's cell. Empty where it is no run."""
    try:
        if not (path / "run.json").is_file():
            return []
        found = [digest_of(Spec.from_json(json.loads((path / "spec.json").read_text())))]
        if (path / SEARCHED).is_file():
            found.append(str(json.loads((path / SEARCHED).read_text())["cell"]))
        return found
    except (OSError, ValueError, TypeError, KeyError):
        return []
