"""Publishes the best trial of a charged search, without revealing its number or how many trials there were."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from dpft.compare.cells import Cell
from dpft.compare.search_folder import State
from dpft.compare.search_space import SearchSpace
from dpft.privacy.ledger.storage.entries import SECRET
from dpft.privacy.mechanism.plan import Plan
from dpft.runs.folder import Run, flush_folder, free, private_folder, write
from dpft.runs.past_data import PastData
from dpft.runs.privacy_card import promise
from dpft.runs.result import Result
from dpft.spec import Spec

_CARRIED = ("spec.json", "adapter.safetensors")


def publish(runs: Path, ledger: str, cell: Cell, state: State, run: Run) -> Path:
    """Write the best trial as a run folder, under the privacy card of the whole search; it appears atomically.

    Nothing in it reveals which trial it was, how long it took or when the search ended.
    """
    assert cell.trials is not None
    target = free(runs / run.path.name.rpartition("-")[0], state.id)
    making = target.with_name(f".{target.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for name in _CARRIED:
        write(making / name, (run.path / name).read_bytes())
    private_folder(making / "private")
    seen = PastData.read(run)
    if seen is not None:
        seen.called(state.id).keep(dataclasses.replace(run, path=making))
    found = Result.from_json({**(run.read_json("result") or {}), "path": run.path})
    plan = dataclasses.replace(state.plan, clip=run.plan.clip)
    hidden: dict[str, Any] = {} if plan.budget is None else {"seconds": None, "memory_mib": None}
    result = dataclasses.replace(found, path=target, epsilon=plan.epsilon_upper, **hidden)
    about = {"format": 1, "id": state.id, "ledger": ledger if state.head else "", "ledger_head": state.head}
    search = {"cell": cell.digest, "ranges": cell.trials.to_json(), "law": "geometric"}
    card = _card(run, plan, cell.trials, state)
    files = {"plan": plan.to_json(), "privacy": card, "run": about, "result": result.to_json(), "search": search}
    for name, content in files.items():
        write(making / f"{name}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    if state.time:
        _date(making, datetime.fromisoformat(state.time).timestamp())
    os.replace(making, target)
    flush_folder(target.parent)  # before the only other copy is deleted
    return target


def _date(folder: Path, time: float) -> None:
    """Set the same modification time on `folder` and all files in it."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time, time))


def _card(run: Run, plan: Plan, trials: SearchSpace, state: State) -> dict[str, Any]:
    """The trial's privacy card, with the search's promise instead of the trial's."""
    card: dict[str, Any] = run.read_json("privacy") or {}
    if plan.budget is None or plan.epsilon_upper is None:
        says = f"the best of {trials.count} runs by the validation rows; nothing is private"
        return {**card, "tuning": {"charged": False, "statement": says}}
    says = (
        f"the best of a random number of runs, geometric with mean {trials.count}, each at this noise and with a "
        "learning rate and clip that it drew in secret; the promise is of the whole search (Papernot and Steinke "
        "2022), and its other runs were deleted unseen"
    )
    return {
        **card, "statement": promise(run.spec, plan), "epsilon": plan.epsilon_upper,
        "accountant": plan.accountant, "ledger_head": state.head, "population": state.population,
        "does_not_cover": [*card["does_not_cover"], UNSEEN, *([STRANGERS] if run.spec.unit != Spec.unit else [])],
        "tuning": {
            "charged": True, "mean": trials.count, "law": "geometric", "draws": SECRET, "statement": says,
        },
    }  # fmt: skip


STRANGERS = (
    "that the validation rows, which chose the best run, are of other people than the training rows: only equal texts "
    "are looked for, and people with other texts in both are taken not to be there"
)
UNSEEN = (
    "how many runs the search had, for whoever watched the machine or its folder, or sees when the file system made "
    "this folder (ctime) and what was written after it: the duration tells; the files here have the time of the "
    "reservation, and `population` is as of then"
)
