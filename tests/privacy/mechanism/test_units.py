"""A person's examples protected together: drawn by one coin, clipped as one sum, counted once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dpft import Budget, Machine, Spec, UserError, tasks, train
from dpft.data.encoded import Encoded
from dpft.data.units import Units, kept, numbered
from dpft.inference.build import BuiltModel, build_model
from dpft.machine import hardware
from dpft.privacy.mechanism import clipping
from dpft.privacy.mechanism.clipping import clipper, sum_per_unit
from dpft.runs.folder import Run
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches
from dpft.training.resume import resume

FP32 = Machine(device="cpu", precision="fp32")
CLIP = 2.0
Folder = Callable[..., Path]


@pytest.fixture
def spec(tiny_bert: Path, glue_folder: Folder) -> Spec:
    """400 rows by 120 authors: some wrote one, some dozens."""
    folder = glue_folder("sst2")
    table = pd.read_parquet(folder / "train.parquet")
    skewed = np.random.RandomState(0).pareto(1.0, len(table)).astype(int) % 120
    table["author"] = [f"author {n}" for n in np.concatenate([np.arange(120), skewed])[: len(table)]]
    table.to_parquet(folder / "train.parquet")
    return Spec(
        task="glue/sst2", data=str(folder), model=str(tiny_bert), options={"dim": 12}, budget=Budget(8.0, 1e-3),
        batch_size=30, epochs=1, learning_rate=3e-2, max_length=16, unit="author", max_per_unit=20,
    )  # fmt: skip


def ready(spec: Spec) -> tuple[BuiltModel, Encoded]:
    model = build_model(spec, 2, False, hardware.resolve(FP32))
    model.adapted.model.double()
    model.adapted.model.per_example = True
    return model, encode(tasks.load(spec).train, model.tokenizer, spec.representation, spec.max_length)


def clipped(model: BuiltModel, data: Encoded, drawn: list[int], tokens: int, clip: float = CLIP) -> list[Tensor]:
    total = [torch.zeros_like(p) for p in model.adapted.private]
    clip_all = clipper(model.adapted, clip)
    for batch in microbatches(data, np.array(drawn, np.int64), tokens):
        for whole, part in zip(total, clip_all(batch), strict=True):
            whole += part
    clip_all.close()
    return total


def one_unit_at_a_time(model: BuiltModel, data: Encoded, drawn: list[int], clip: float = CLIP) -> list[Tensor]:
    """The oracle: each unit's summed loss, its gradient, its norm over all parameters, clip, add."""
    adapted = model.adapted
    total = [torch.zeros_like(p) for p in adapted.private]
    assert data.units is not None
    rowwise = replace(data, units=None)
    for unit in drawn:
        loss = sum(
            adapted.losses(adapted.model(batch), batch).sum()
            for row in data.units.of_unit(unit)
            for batch in microbatches(rowwise, np.array([row]), 1)
        )
        gradients = torch.autograd.grad(loss, list(adapted.private))
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        for whole, g in zip(total, gradients, strict=True):
            whole += g * min(1.0, clip / norm)
    return total


METHODS = {"slash": {"dim": 12}, "lora": {"rank": 2}, "rgp": {"rank": 2}, "linear": {}, "full": {}}
DRAWN = [0, 1, 2, 5, 9, 17, 30, 64, 119]


@pytest.mark.parametrize("tokens", [1, 100, 10_000])
@pytest.mark.parametrize("method", METHODS)
def test_the_sum_is_that_of_units_taken_one_at_a_time(spec: Spec, method: str, tokens: int) -> None:
    # Catches: a clip per example, a unit cut between two micro-batches, ghost norms of single rows.
    model, data = ready(replace(spec, method=method, options=METHODS[method]))
    model.adapted.begin(0)
    expected = one_unit_at_a_time(model, data, DRAWN)
    for found, wanted in zip(clipped(model, data, DRAWN, tokens), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_the_oracle_has_units_that_are_clipped_and_units_that_are_not(spec: Spec) -> None:
    model, data = ready(spec)
    norms = [float(torch.cat([g.flatten() for g in one_unit_at_a_time(model, data, [u], 1e9)]).norm()) for u in DRAWN]
    assert min(norms) < CLIP < max(norms)


def test_clipping_each_example_by_itself_is_caught(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The injected bug: units are drawn together but clipped row by row, so that one moves the sum by many clips."""
    model, data = ready(spec)
    assert data.units is not None
    busiest = int(np.argmax(np.diff(data.units.starts)))
    assert length(clipped(model, data, [busiest], 100, 1e-3)) <= 1e-3 * (1 + 1e-6)
    monkeypatch.setattr(clipping, "sum_per_unit", lambda gradients, _: gradients)
    assert length(clipped(model, data, [busiest], 100, 1e-3)) > 3e-3


def length(gradients: list[Tensor]) -> float:
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def test_an_empty_batch_adds_nothing_and_a_unit_that_is_not_finite_is_left_out_whole() -> None:
    units = torch.tensor([0, 0, 1, 1])
    rows = torch.tensor([[1.0, 0.0], [float("inf"), 0.0], [0.0, 2.0], [0.0, -1.5]])
    (summed,) = sum_per_unit([rows], units)
    assert torch.equal(clipping.clipped_sum([summed], 10.0)[0], torch.tensor([0.0, 0.5]))
    (none,) = sum_per_unit([torch.zeros(0, 3)], torch.zeros(0, dtype=torch.int64))
    assert none.shape == (0, 3)


def test_half_precision_gradients_are_summed_in_float32() -> None:
    (summed,) = sum_per_unit([torch.full((1000, 1), 1.001, dtype=torch.bfloat16)], torch.zeros(1000, dtype=torch.int64))
    assert summed.dtype == torch.float32
    assert float(summed) == 1000.0  # bfloat16 has 1.0 there, and would stop at 256


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=40), st.integers(1, 300))
def test_a_units_rows_come_in_one_batch_within_the_token_budget(rows: list[tuple[int, int]], tokens: int) -> None:
    lengths, owners = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    _, numbers = np.unique(owners, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    zeros = np.zeros(int(starts[-1]), np.int32)
    labels = np.arange(len(rows))
    data = Encoded(zeros, starts, labels.astype(np.int32), labels.astype(np.int32) * 0, labels, 0, False, None,
                   Units.of(numbers))  # fmt: skip
    drawn = np.arange(0, data.unit_count, 2)
    found: list[int] = []
    for batch in microbatches(data, drawn, tokens):
        assert batch.units is not None
        assert len(batch.units.unique()) == 1 or batch.ids.numel() <= tokens
        for unit in batch.units.unique():
            own = batch.labels[batch.units == unit].tolist()
            assert sorted(own) == np.flatnonzero(numbers == numbers[own[0]]).tolist()
        assert batch.units.unique().tolist() == list(range(int(batch.units.max()) + 1))
        found += batch.labels.tolist()
    assert sorted(found) == np.flatnonzero(np.isin(numbers, drawn)).tolist()


def named(*units: object) -> NDArray[np.int64]:
    return numbered(units, "who", lambda row: f"row {row + 1}")


def test_a_unit_is_the_same_however_it_was_typed_and_a_row_without_one_is_named() -> None:
    """Catches: one person as two, each with a budget of their own, since one name has a space behind it."""
    assert named("7", 7, 7.0, " 7 ", np.int64(7), np.float32(7), "ann", "ann ").tolist() == [0] * 6 + [1] * 2
    for nobody in (None, "", " ", math.nan, math.inf, ["a"]):
        with pytest.raises(UserError, match="each row must name its 'who', got no name or number in row 2"):
            named("a", nobody)


def test_of_each_unit_its_first_rows_are_kept_whatever_others_hold() -> None:
    numbers = named("b", "a", "b", "b", "c", "a", "b")
    assert numbers.tolist() == [0, 1, 0, 0, 2, 1, 0]
    assert kept(numbers, 2).tolist() == [0, 1, 2, 4, 5]
    assert kept(numbers, 1).tolist() == [0, 1, 4]
    without = kept(named("a", "c", "a"), 1)  # "b" taken out: the others keep the same rows
    assert without.tolist() == [0, 1]


def test_a_run_plans_samples_and_promises_by_unit(spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches a rate over rows: 30 of 400 where 30 of 120 people are drawn would understate epsilon.
    drawn: list[list[int]] = []
    import dpft.training.loop as line

    def watched(data: Encoded, units: np.ndarray, *rest: object) -> object:
        drawn.append(units.tolist())
        return microbatches(data, units, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(line, "microbatches", watched)
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    run, card = Run.open(result.path), json.loads((result.path / "privacy.json").read_text())
    assert run.plan.rate == 30 / 120
    assert run.plan.steps == 4 == len(drawn)
    assert max(map(max, drawn)) < 120
    assert "adding or removing all examples of one author" in card["statement"]
    assert (card["unit"], card["max_per_unit"], card["units"]) == ("author", 20, 120)
    # The number of rows follows from one person's presence. As a word: a fingerprint may hold these digits by chance.
    assert not re.search(r"\b400\b", json.dumps(card))
    assert resume(result.path).value == result.value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unit": "nobody"}, "must be a column of train, got none named 'nobody'"),
        ({"unit": "label"}, "batch-size must be at most the 2 examples"),
        ({"unit": "example", "max_per_unit": 3}, "max-per-unit goes with a unit"),
        ({"max_per_unit": 0}, "max-per-unit must be a whole number above 0"),
        ({"unit": ""}, "unit must be a name"),
        ({"task": "sample", "data": None}, "no unit column"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_anything_is_spent(
    spec: Spec, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    values = {**spec.to_json(), **changes}
    if values["unit"] == "example" and "max_per_unit" not in changes:
        values["max_per_unit"] = None
    with pytest.raises(UserError, match=said):
        train(Spec.from_json(values), runs=tmp_path / "runs", machine=FP32)
    assert not (tmp_path / "ledger.sqlite").exists()


def test_a_row_that_names_nobody_is_refused_by_its_number(spec: Spec) -> None:
    assert spec.data is not None
    file = Path(spec.data) / "train.parquet"
    table = pd.read_parquet(file)
    table.loc[7, "author"] = None
    table.to_parquet(file)
    with pytest.raises(
        UserError, match="each row must name its 'author', got no name or number in row 8 of train"
    ) as caught:
        tasks.load(spec)
    assert table["sentence"][7] not in str(caught.value)


def test_a_spec_with_a_unit_goes_through_json(spec: Spec) -> None:
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert replace(spec, max_per_unit=None).max_per_unit == 32
