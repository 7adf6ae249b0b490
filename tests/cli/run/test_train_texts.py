"""Flags of texts to write: they choose the task, and what does not fit is refused before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpft.spec import BUILTIN_LM, Spec
from tests.calling import Command

BUDGET = ("--epsilon", 8, "--delta", 1e-3)
SECRET = "patient-4711"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--messages", "turns", "--text", "body"), "needs --text or --messages, got both"),
        (("--prompt", "ask"), "needs --text or --messages, got neither"),
        (("--text", "body", "--prompt", "ask"), "empty, got one in the column 'body' of line 2 of rows.jsonl"),
        (("--messages", "turns"), "list of messages"),
        (("--text", "ask", "--max-windows", 0), "max-windows must be a whole number above 0"),
        (("--text", "ask", "--token-loss", "median"), "token-loss must be one of mean, sum"),
        (("--text", "ask", "--label", "team", "--token-loss", "sum"), "token-loss go with tasks that write"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_code_2(
    dpft: Command, tiny_decoder: Path, tmp_path: Path, words: tuple[object, ...], told: str
) -> None:
    rows = [
        {"body": SECRET, "ask": SECRET, "turns": SECRET, "team": "a"},
        {"body": "", "ask": "b", "turns": [], "team": "b"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, err = dpft("train", *BUDGET, "--data", "rows.jsonl", "--model", tiny_decoder, *words)
    assert (code, out) == (2, "")
    assert told in err
    assert SECRET not in err
    assert not (tmp_path / "runs").exists()


def test_the_built_in_parts_that_a_run_uses_are_named() -> None:
    from dpft.cli.run.train import _builtins

    sample, files = _builtins(Spec(task="text/sample")), _builtins(Spec(task="text/files", model=BUILTIN_LM))
    assert ["language model" in sample[0], "task text/sample" in sample[1], len(sample)] == [True, True, 2]
    assert ["language model" in files[0], len(files)] == [True, 1]
    assert _builtins(Spec(task="text/files", model="mine")) == []
    assert "encoder" in _builtins(Spec())[0]


def test_tasks_are_listed_with_how_to_bring_ones_own_texts(dpft: Command) -> None:
    code, out, _ = dpft("tasks")
    assert code == 0
    assert all(
        name in out for name in ("text/files", "text/e2e", "text/sample", "--messages messages", "--prompt question")
    )
