"""The grid of options: what is changed, what is trained once, what is skipped, what is printed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from dpft.benchmarks import accuracy
from dpft.benchmarks._cells import Bench, sms

from dpft import Budget, Machine, Spec, UserError

FP32 = Machine(device="cpu", precision="fp32")
Folder = Callable[..., Path]


@pytest.fixture
def base(tiny_bert: Path, glue_folder: Folder) -> Spec:
    return Spec(task="glue/sst2", data=str(glue_folder("sst2")), model=str(tiny_bert), method="linear",
                budget=Budget(8.0, 1e-4), epochs=1)  # fmt: skip


def test_a_grid_trains_every_cell_once_and_goes_on_where_it_was_broken_off(base: Spec, tmp_path: Path) -> None:
    file, options = tmp_path / "found.jsonl", ["average=tail:0.5", "optimizer=adam_bc"]
    rows: list[accuracy.Row] = []
    accuracy.measure([base], options[:1], 200, FP32, rows, file)
    assert [row["option"] for row in rows] == ["base", "average=tail:0.5"]
    accuracy.measure([base], options, 200, FP32, rows, file)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert found == rows
    assert [row["option"] for row in rows] == ["base", *options]
    assert {(row["rows"], row["batch"], row["steps"]) for row in rows} == {(200, 16, 13)}
    before = file.read_text()
    accuracy.measure([base], options, 200, FP32, rows, file)
    assert file.read_text() == before


def test_an_average_is_judged_on_the_weights_of_the_run_without_it(base: Spec) -> None:
    cells = [(base, option) for option in ("base", "average=tail:0.5", "optimizer=adam_bc", "average=ema:0.9")]
    assert [list(together.values()) for _, together in accuracy.runs(cells)] == [
        ["base", "average=tail:0.5", "average=ema:0.9"], ["optimizer=adam_bc"]
    ]  # fmt: skip


def test_every_cell_starts_from_the_same_model(base: Spec) -> None:
    # Catches a second cell that goes on from where the first one ended: 200 steps without a start would tell.
    bench = Bench(base, 200, FP32)
    spec = accuracy.settled(base, "base", 200)
    list(bench.cell(spec, ["none"]))
    model, start = bench._adapted(spec)
    assert not all(torch.equal(t, start[n]) for n, t in model.adapted.state().items())
    model.adapted.load(start)
    assert all(torch.equal(t, start[n]) for n, t in model.adapted.state().items())


def test_an_option_changes_its_fields_and_nothing_else(base: Spec) -> None:
    base = dataclasses.replace(base, method="slash")
    found = accuracy.changed(base, "average=ema:0.9+warmup=0.2+options.init=normal+batch_size=64")
    assert found == Spec.from_json({
        **base.to_json(), "average": "ema:0.9", "warmup": 0.2, "options": {"init": "normal"}, "batch_size": 64,
    })  # fmt: skip
    assert accuracy.settled(found, "batch_size=64", 200).batch_size == 64
    assert accuracy.settled(base, "base", 200).batch_size == 16


@pytest.mark.parametrize(("option", "rule"), [
    ("colour=red", "with a field of Spec"), ("average", "with a field of Spec"), ("warmup=much", "must be a number"),
])  # fmt: skip
def test_an_option_that_is_none_is_one_line(base: Spec, option: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        accuracy.changed(base, option)


def test_the_table_pairs_seeds_and_shows_spread() -> None:
    common = {"task": "sst2", "method": "slash", "set": {}, "rows": 8, "epsilon": 3.0, "metric": "accuracy"}
    rows = [{**common, "option": o, "seed": s, "value": v} for o, s, v in (
        ("base", 0, 0.5), ("base", 1, 0.7), ("average=tail:0.5", 0, 0.6), ("average=tail:0.5", 1, 0.82))]  # fmt: skip
    lines = accuracy.table(rows).splitlines()
    assert "60.00 ± 14.14  n 2" in lines[1]
    assert "71.00 ± 15.56  n 2   +11.00 ±  1.41" in lines[2]


def test_sms_rows_are_read_with_spam_as_class_one(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        pd.DataFrame({"sms": ["a", "b"], "label": [0, 1]}).to_parquet(tmp_path / f"{split}.parquet")
    task = sms(tmp_path)
    assert (task.labels, task.metric, list(task.train.texts)) == (("ham", "spam"), "f1", ["a", "b"])
