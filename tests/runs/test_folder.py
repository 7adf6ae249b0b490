"""Where a run's folder comes to lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dpft.errors import UserError
from dpft.privacy.mechanism.plan import Plan
from dpft.runs import folder as folders
from dpft.runs.folder import Run
from dpft.spec import Budget, Spec

SPEC = Spec(budget=Budget(8.0, 1e-4))
PLAN = Plan(0.1, 10, 1.2, 1.0, 40, SPEC.budget, 7.9, "test")
IDENTITIES = ["abcd" + "0" * 28, "abcd1" + "0" * 27, "abcd1" + "f" * 27]


def create(root: Path) -> Run:
    return Run.create(root, SPEC, PLAN, root / "ledger", lambda identity: f"head of {identity}")


def test_runs_whose_identities_begin_alike_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches four digits and no more: of fifty runs of one spec, two would have the same ones with a chance of 1.9 %.
    identities = iter(IDENTITIES)
    monkeypatch.setattr(folders.secrets, "token_hex", lambda _: next(identities))
    runs = [create(tmp_path) for _ in IDENTITIES]
    assert [run.path.name.rpartition("-")[2] for run in runs] == ["abcd", "abcd1", "abcd1f"]
    assert [Run.open(run.path).id for run in runs] == IDENTITIES


def test_a_folder_that_another_process_makes_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = folders.free

    def raced(path: Path, identity: str) -> Path:
        found = shipped(path, identity)
        if not list(tmp_path.iterdir()):
            found.mkdir()
        return found

    monkeypatch.setattr(folders, "free", raced)
    mine = create(tmp_path)
    theirs = next(folder for folder in tmp_path.iterdir() if folder != mine.path)
    assert not list(theirs.iterdir())
    assert mine.path.name == theirs.name + mine.id[4]


@pytest.mark.parametrize("way", ["a file", "a link to nowhere"])
def test_what_is_in_the_way_is_refused_in_one_line(tmp_path: Path, way: str) -> None:
    root = tmp_path / "runs"
    if way == "a file":
        root.write_text("")
    else:
        os.symlink(tmp_path / "nowhere", root)
    with pytest.raises(UserError, match=r"^the run's folder must be writable, got .*; pass --runs DIR$"):
        create(root)
