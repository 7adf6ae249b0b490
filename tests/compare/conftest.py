"""A small grid of a tiny model on made-up rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft import Machine
from dpft.compare.cells import Cell
from dpft.compare.events import Outcome, SilentListener
from dpft.compare.folder import ComparisonFolder
from dpft.compare.grid import grid_from
from dpft.compare.planning import Placement
from dpft.compare.running.work import Work
from dpft.machine.memo import CachingMemo
from dpft.privacy.ledger import Ledger

FP32 = Machine(device="cpu", precision="fp32")
Cells = Callable[..., tuple[Cell, ...]]


@pytest.fixture
def values(tiny_bert: Path, glue_folder: Callable[..., Path]) -> dict[str, Any]:
    """A grid file's content: two methods, a budget and none, one seed."""
    return {
        "methods": {"slash": {"options": {"dim": 12}}, "linear": {}}, "epsilons": [8, "inf"], "delta": 1e-4,
        "task": "glue/sst2", "data": str(glue_folder("sst2")), "model": str(tiny_bert), "batch_size": 40, "epochs": 0.5,
        "max_length": 16,
    }  # fmt: skip


@pytest.fixture
def cells(values: dict[str, Any]) -> Cells:
    return lambda **changes: grid_from({**values, **changes}).cells()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(
        ComparisonFolder(tmp_path / "comparison"), Placement(tmp_path / "ledger.sqlite", None, FP32), CachingMemo()
    )


class Heard(SilentListener):
    """Remembers what it was told; `stop` breaks off as soon as so many cells are over."""

    def __init__(self, stop: int | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self.stop = stop

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if len(self.outcomes) == self.stop:
            raise KeyboardInterrupt


def reserved(ledger: Path) -> list[Any]:
    """All runs and searches of a ledger."""
    with Ledger(ledger) as book:
        book.verify()
        return [run for one in book.view().populations.values() for run in one.runs]
