"""Synthetic files: what is asked is written, once, and an interruption loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpft.errors import UserError
from dpft.generation.synthesis import Request, generate, prompts_of
from dpft.inference.writing import Sampling
from dpft.objectives.language import Continuation
from dpft.spec import Spec

SIZE = 4  # rows of a batch


@dataclass
class Echo:
    """A writer that answers each prompt with itself and the batch's number; it stops after `most` batches."""

    most: int = 10**9
    written: list[int] = field(default_factory=list)

    def batches(
        self, prompts: Sequence[str], sampling: Sampling, first: int = 0
    ) -> Iterator[tuple[list[int], list[Continuation]]]:
        order = list(reversed(range(len(prompts))))  # not in the order of the rows
        for number, start in enumerate(range(0, len(order), SIZE)):
            if number < first:
                continue
            if len(self.written) == self.most:
                raise KeyboardInterrupt
            self.written.append(number)
            rows = order[start : start + SIZE]
            yield rows, [Continuation(f"{prompts[row]}|{row}", "stop" if row % 2 else "length") for row in rows]


@dataclass
class Folder:
    """A run as far as generation reads it."""

    spec: Spec
    id: str = "run"
    released: dict[str, Any] | None = None

    def read_json(self, name: str) -> dict[str, Any] | None:
        assert name == "label_shares"
        return self.released


@dataclass
class Model:
    run: Folder
    writer: Echo
    labels: tuple[str, ...] = ()


def _model(labels: tuple[str, ...] = (), released: dict[str, Any] | None = None, **values: Any) -> Any:
    return Model(Folder(Spec(**values), released=released), Echo(), labels)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_in_order_whatever_the_batches(tmp_path: Path) -> None:
    found = generate(_model(), tmp_path / "a.jsonl", Request(10))
    assert [row["text"] for row in _read(found.path)] == [f"|{row}" for row in range(10)]
    assert {row["finish_reason"] for row in _read(found.path)} == {"stop", "length"}
    assert list(tmp_path.iterdir()) == [found.path]  # nothing else is left


def test_prompts_are_used_in_turn_and_named_as_in_the_data(tmp_path: Path) -> None:
    model = _model(prompt="question", text="answer")
    generate(model, tmp_path / "a.jsonl", Request(5, prompts=("x", "y")))
    rows = _read(tmp_path / "a.jsonl")
    assert [row["question"] for row in rows] == ["x", "y", "x", "y", "x"]
    assert rows[1]["answer"] == "y|1"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_tables_hold_the_same_rows(name: str, tmp_path: Path) -> None:
    generate(_model(), tmp_path / "b.jsonl", Request(9))
    generate(_model(), tmp_path / name, Request(9))
    found = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.read_parquet(tmp_path / name)
    assert found.to_dict("records") == _read(tmp_path / "b.jsonl")


def test_an_interrupted_file_goes_on_where_it_was(tmp_path: Path) -> None:
    model, to = _model(), tmp_path / "a.jsonl"
    model.writer.most = 2
    with pytest.raises(KeyboardInterrupt):
        generate(model, to, Request(11))
    assert not to.exists()
    with open(tmp_path / "a.jsonl.part", "a") as file:
        file.write('[{"row": 3, "te')  # the process died in the middle of a line
    again = _model()
    generate(again, to, Request(11))
    assert again.writer.written == [2]  # the first two batches are not written again
    assert [row["text"] for row in _read(to)] == [f"|{row}" for row in range(11)]


def test_another_request_does_not_go_on_with_the_rest_of_one(tmp_path: Path) -> None:
    model = _model()
    model.writer.most = 1
    with pytest.raises(KeyboardInterrupt):
        generate(model, tmp_path / "a.jsonl", Request(11))
    with pytest.raises(UserError, match="same run and options"):
        generate(_model(), tmp_path / "a.jsonl", Request(11, Sampling(seed=1)))


def test_labels_are_drawn_by_the_released_shares(tmp_path: Path) -> None:
    released = {"shares": {"a": 0.8, "b": 0.2}, "private": True}
    found = generate(_model(("a", "b"), released, label="kind"), tmp_path / "a.jsonl", Request(2000))
    rows = _read(tmp_path / "a.jsonl")
    share = np.mean([row["kind"] == "a" for row in rows])
    assert abs(share - 0.8) < 0.05  # five deviations
    assert all(row["text"].startswith(f"Label: {row['kind']}\n") for row in rows)
    assert "with privacy" in found.notes[0]


def test_stated_shares_win_over_released_ones(tmp_path: Path) -> None:
    released = {"shares": {"a": 0.8, "b": 0.2}, "private": True}
    request = Request(50, label_shares={"a": 0.0, "b": 1.0})
    generate(_model(("a", "b"), released), tmp_path / "a.jsonl", request)
    assert {row["label"] for row in _read(tmp_path / "a.jsonl")} == {"b"}


def test_shares_that_are_exact_are_called_not_private(tmp_path: Path) -> None:
    released = {"shares": {"a": 0.8, "b": 0.2}, "private": False}
    assert "NOT PRIVATE" in generate(_model(("a", "b"), released), tmp_path / "a.jsonl", Request(3)).notes[0]


@pytest.mark.parametrize(
    ("request_", "model", "name", "match"),
    [
        (Request(3), {}, "a.txt", "must end in"),
        (Request(3, label_shares={"a": 1.0}), {}, "a.csv", "drop --label-shares"),
        (Request(3, label_shares={"a": 1.0}), {"labels": ("a", "b")}, "a.csv", "name each"),
        (Request(3, label_shares={"a": 0.5, "b": 0.4}), {"labels": ("a", "b")}, "a.csv", "sum to 1"),
        (Request(3), {"prompt": "q"}, "a.csv", "--prompts"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    request_: Request, model: dict[str, Any], name: str, match: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        generate(_model(**model), tmp_path / name, request_)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(UserError, match="new file"):
        generate(_model(), tmp_path / "a.csv", Request(3))
    assert (tmp_path / "a.csv").read_text() == "mine"


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_count_is_a_whole_number_above_zero(count: int) -> None:
    with pytest.raises(UserError, match="count"):
        Request(count)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real, written = builtins.open, []

    def full(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(".part") and mode == "a":
            written.append(path)
            if len(written) == 2:
                raise OSError(28, "No space left on device")
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(UserError, match=r"No space left on device.*goes on where it was"):
        generate(_model(), tmp_path / "a.jsonl", Request(11))
    monkeypatch.undo()
    again = _model()
    generate(again, tmp_path / "a.jsonl", Request(11))
    assert again.writer.written == [1, 2]


def test_prompts_are_lines_of_a_text_or_a_column_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "p.csv").write_text("q,other\none,1\ntwo,2\n")
    assert prompts_of(tmp_path / "p.txt", None) == prompts_of(tmp_path / "p.csv", "q") == ("one", "two")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="at least one prompt"):
        prompts_of(tmp_path / "empty.txt", None)
