"""Runs kept as numbers: what is written holds no path, and the table is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dpft.benchmarks import kept

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
    kept.main([file], runs=[tmp_path / "runs"])
    kept.main([second], runs=[tmp_path / "other"])
    capsys.readouterr()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["epsilon"], row["seed"], row["value"]) for row in rows] == [(3, 0, 0.8), (3, 1, 0.9), (None, 0, 0.95)]
    assert "/home" not in file.read_text()
    kept.main([file, second])
    assert capsys.readouterr().out.splitlines() == [
        "| method | glue/sst2 accuracy, ε 3 | glue/sst2 accuracy, none | glue/stsb pearson, ε 3 |",
        "| --- | --- | --- | --- |",
        "| lora batch_size=300 | 85.0 ± 7.1 (2) | — | — |",
        "| lora batch_size=64 | — | 95.0 (1) | — |",
        "| slash batch_size=64 | — | — | 50.0 (1) |",
    ]
    with pytest.raises(UserError, match="kept in one file"):
        kept.main([file, second], runs=[tmp_path / "runs"])
