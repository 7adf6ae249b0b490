"""Runs kept as numbers: what is written holds no path, and the table is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dpft.benchmarks import results_store

from dpft import UserError
from tests.reports.conftest import make_run


def test_kept_runs_hold_numbers_alone_and_their_table_is_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in enumerate((0.8, 0.9)):
        make_run(tmp_path / "runs", f"private-{seed}", value=value, seed=seed, method="lora", data="/home/me/glue/sst2")
    make_run(tmp_path / "runs", "free", epsilon=None, value=0.95, method="lora", batch_size=64)
    make_run(
        tmp_path / "other", "pearson", value=0.5, metric="pearson", method="slash", batch_size=64, task="glue/stsb"
    )
    file, second = tmp_path / "kept.jsonl", tmp_path / "more.jsonl"
    results_store.main([file], runs=[tmp_path / "runs"])
    results_store.main([second], runs=[tmp_path / "other"])
    capsys.readouterr()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["epsilon"], row["seed"], row["value"]) for row in rows] == [(3, 0, 0.8), (3, 1, 0.9), (None, 0, 0.95)]
    assert "/home" not in file.read_text()
    results_store.main([file, second])
    assert capsys.readouterr().out.splitlines() == [
        "| method | glue/sst2 accuracy, ε 3, δ 1e-05 | glue/sst2 accuracy, none | glue/stsb pearson, ε 3, δ 1e-05 |",
        "| --- | --- | --- | --- |",
        "| lora batch_size=300 | 85.0 ± 7.1 (2) | — | — |",
        "| lora batch_size=64 | — | 95.0 (1) | — |",
        "| slash batch_size=64 | — | — | 50.0 (1) |",
    ]
    with pytest.raises(UserError, match="stored in one file"):
        results_store.main([file, second], runs=[tmp_path / "runs"])


def test_what_is_kept_is_never_lost_to_a_mistake(tmp_path: Path) -> None:
    """Catches: a mistyped folder that empties a kept file."""
    make_run(tmp_path / "runs", "one", seed=0)
    (tmp_path / "none").mkdir()
    file = tmp_path / "kept.jsonl"
    results_store.main([file], runs=[tmp_path / "runs"])
    before = file.read_text()
    with pytest.raises(UserError, match="must be a finished run"):
        results_store.main([file], runs=[tmp_path / "none"])
    assert file.read_text() == before
    for content in (None, "no json\n", "3\n"):
        broken = tmp_path / "broken.jsonl"
        if content:
            broken.write_text(content)
        with pytest.raises(UserError, match="must be JSON lines"):
            results_store.main([broken])


def test_runs_that_differ_in_more_than_their_seed_share_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, change in enumerate(
        ({}, {"learning_rate": 1.0}, {"head_learning_rate": 1.0}, {"delta": 1e-6}, {"max_length": 16})
    ):
        make_run(tmp_path / "runs", f"run-{number}", seed=number, **change)
    make_run(tmp_path / "runs", "odd", value=float("nan"))
    results_store.main([tmp_path / "kept.jsonl"], runs=[tmp_path / "runs"])
    shown = capsys.readouterr().out
    assert shown.count("(1)") == 5
    assert "±" not in shown
