"""What an export starts from: a finished run, under its own card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dpft import Budget, UserError
from dpft.exports import export
from dpft.exports.source import ExportSource
from dpft.runs.folder import Run

Finished = Callable[..., Path]


@pytest.mark.parametrize("swapped", ["private", "plain"])
def test_another_runs_card_does_not_leave_with_a_run(tiny_bert: Path, finished: Finished, swapped: str) -> None:
    # Catches a NOT PRIVATE run exported with "(8, 1e-4)-differential privacy" on its card.
    private = finished(tiny_bert, options={"dim": 12}, budget=Budget(8.0, 1e-4))
    plain = finished(tiny_bert, options={"dim": 12}, data=Run.open(private).spec.data)
    runs = {"private": private, "plain": plain}
    other = "plain" if swapped == "private" else "private"
    (runs[swapped] / "privacy.json").write_bytes((runs[other] / "privacy.json").read_bytes())
    with pytest.raises(UserError, match="a run's card must state what its plan says"):
        ExportSource.open(runs[swapped])
    assert ExportSource.open(runs[other]).privacy["private"] is (other == "private")


def test_a_card_with_a_smaller_epsilon_does_not_leave_with_its_run(tiny_bert: Path, finished: Finished) -> None:
    run = finished(tiny_bert, options={"dim": 12}, budget=Budget(8.0, 1e-4))
    card = json.loads((run / "privacy.json").read_text())
    (run / "privacy.json").write_text(json.dumps({**card, "epsilon": 1.0}))
    with pytest.raises(UserError, match="a run's card must state what its plan says"):
        ExportSource.open(run)


@pytest.mark.parametrize("missing", ["privacy.json", "result.json"])
def test_a_run_broken_off_while_it_was_written_down_is_refused(
    tiny_bert: Path, finished: Finished, missing: str
) -> None:
    run = finished(tiny_bert, options={"dim": 12})
    (run / missing).unlink()
    with pytest.raises(UserError, match="a run must be finished before it is exported"):
        ExportSource.open(run)


def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(
    tiny_bert: Path, finished: Finished, tmp_path: Path
) -> None:
    run = finished(tiny_bert, options={"dim": 12})
    (tmp_path / "file").write_text("here first")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(p.name for p in tmp_path.iterdir())
    for target in (tmp_path / "file" / "x" / "y", tmp_path / "link"):
        with pytest.raises(UserError):
            export(run, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_export_with_code_loads_in_bfloat16(tiny_bert: Path, finished: Finished, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    run = finished(tiny_bert, method="jr_warp", options={"dim": 12}, representation="mean")
    export(run, tmp_path / "out", with_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", trust_remote_code=True, dtype=torch.bfloat16
    )
    ids = torch.tensor([[2, 7, 8, 3]])
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
