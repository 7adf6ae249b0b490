"""The command line: one line and exit code 2 for a mistake, and outputs that say what they promise."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dpft.cli import main

from dpft.privacy.mechanism.plan import Plan
from dpft.runs.privacy_card import NOT_PRIVATE
from dpft.spec import Budget, Spec
from tests.calling import Command, Outcome

Folder = Callable[..., Path]
BUDGET = ("--epsilon", "8", "--delta", "1e-4")
FIELDS = {
    "path",
    "metric",
    "value",
    "classes",
    "further",
    "epsilon",
    "delta",
    "steps",
    "trainable",
    "seconds",
    "precision",
    "device",
    "memory_mib",
    "private",
    "privacy",
}


@pytest.fixture(autouse=True)
def _workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths land in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def asked(tiny_bert: Path, glue_folder: Folder) -> list[object]:
    """Flags of a small run that would work, without a budget: 400 rows, 40 a batch."""
    return [
        "--task", "glue/sst2", "--data", glue_folder(), "--model", tiny_bert, "--batch-size", 40, "--epochs", 1,
        "--max-length", 32, "--precision", "fp32", "--option", "dim=16",
    ]  # fmt: skip


@pytest.fixture
def finished(dpft: Command, asked: list[object]) -> Callable[..., dict[str, Any]]:
    """Train with more flags and return result.json as `train --json` prints it."""

    def train(*more: object) -> dict[str, Any]:
        code, out, err = dpft("train", *asked, *more, "--json")
        assert code == 0, err
        result: dict[str, Any] = json.loads(out)
        return result

    return train


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, one line on stderr with a rule, what was found and a remedy; nothing was left behind."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert re.fullmatch(r"dpft: .+, got .+; .+", err.strip()), err
    for word in words:
        assert word in err
    assert not Path("runs").exists() or not any(Path("runs").iterdir())
    assert ledger_rows() == 0


def ledger_rows() -> int:
    if not Path("ledger.sqlite").exists():
        return 0
    with sqlite3.connect("ledger.sqlite") as db:
        return int(db.execute("SELECT count(*) FROM entry").fetchone()[0])


# Refusals


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf", "-inf", "1e-9"])
def test_an_epsilon_that_is_none_or_out_of_reach_is_refused(dpft: Command, asked: list[object], epsilon: str) -> None:
    assert_refused(dpft("train", *asked, f"--epsilon={epsilon}", "--delta", "1e-4"), "epsilon", "--epsilon")
    assert_refused(dpft("budget", "--examples", 400, f"--epsilon={epsilon}", "--delta", "1e-4", "--batch-size", 40))


@pytest.mark.parametrize("delta", ["0", "-1", "1", "2", "nan", "inf", "0.0025", "0.003"])
def test_a_delta_that_is_none_or_not_below_one_in_n_is_refused(dpft: Command, asked: list[object], delta: str) -> None:
    assert_refused(dpft("train", *asked, "--epsilon", "8", f"--delta={delta}"), "delta", "--delta")


@pytest.mark.parametrize(
    ("flag", "value"),
    [(flag, value) for flag in ("--clip", "--epochs", "--learning-rate", "--head-learning-rate")
     for value in ("0", "-1", "nan", "inf")]
    + [("--batch-size", "0"), ("--batch-size", "-5"), ("--batch-size", "401"), ("--max-length", "7"),
       ("--max-length", "129"), ("--seed", "-1"), ("--tokens-per-microbatch", "0"),
       ("--method", "slahs"), ("--method", ""), ("--option", "dmi=3"), ("--option", "dim=many"),
       ("--option", "dim"), ("--option", "=5"), ("--option", "dim=0"), ("--task", "glue/sst22"),
       ("--representation", "maks"), ("--schedule", "fast"), ("--optimizer", "lion"), ("--precision", "fp8"),
       ("--clipping", "softly"), ("--warmup", "1"),
       ("--device", "abacus"), ("--model", "./nowhere"), ("--model", "nobody/nothing"), ("--data", "nowhere"),
       ("--spec", "nowhere.json"), ("--task", "sample"), ("--task", "glue/rte")],
)  # fmt: skip
def test_a_flag_with_a_wrong_value_is_refused_in_one_line_that_names_it(
    dpft: Command, asked: list[object], flag: str, value: str
) -> None:
    """The last two name a task that brings its own data, and one whose columns the data lack."""
    words = (value.partition("=")[0] or value,) if value not in ("nan", "inf", "glue/rte", "-5", "129") else ()
    assert_refused(dpft("train", *asked, *BUDGET, f"{flag}={value}"), *words)


def test_missing_data_are_refused_with_the_way_to_give_them(dpft: Command, tiny_bert: Path) -> None:
    assert_refused(dpft("train", *BUDGET, "--task", "glue/sst2", "--model", tiny_bert), "--data DIR")


def test_a_run_without_a_budget_or_with_half_or_too_much_of_one_is_refused(dpft: Command, asked: list[object]) -> None:
    assert_refused(dpft("train", *asked), "--epsilon", "--non-private")
    assert_refused(dpft("train", *asked, "--epsilon", 8), "got no delta; pass --delta")
    assert_refused(dpft("train", *asked, "--delta", 1e-4), "got no epsilon; pass --epsilon")
    assert_refused(dpft("train", *asked, *BUDGET, "--non-private"), "a run is private or not")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"colour": 1}', b'{"budget": {"epsilon": 1}}', b'{"budget": 5}',
     b'{"budget": {"epsilon": "8", "delta": 1e-5}}', b'{"batch_size": "40"}', b'{"epochs": NaN}', b'{"seed": 1.5}',
     b'{"options": [1]}', b'{"options": {"dim": [1]}}', b'{"task": ["glue/sst2"]}', b'{"representation": ["cls"]}'],
)  # fmt: skip
def test_a_spec_file_that_is_none_is_refused(dpft: Command, content: bytes) -> None:
    Path("spec.json").write_bytes(content)
    assert_refused(dpft("train", "--spec", "spec.json", *BUDGET))


@pytest.mark.parametrize("words", [["--runs", "file"], ["--ledger", "file"], ["--runs", "file/below"]])
def test_places_that_cannot_be_written_are_refused(dpft: Command, asked: list[object], words: list[str]) -> None:
    Path("file").write_text("not a folder, and no database either: it is longer than a header of SQLite's is")
    assert_refused(dpft("train", *asked, *BUDGET, *words))


@pytest.mark.parametrize(
    "words",
    [["trian"], ["train", "--epsilonn", "3"], ["train", "--epsilon"], ["train", "--epsilon", "much"],
     ["train", "--batch-size", "2.5"], ["budget", "--epsilon", "3"], ["evaluate"], ["predict", "--text", "a"]],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_parsed_is_one_line_and_exit_code_2(dpft: Command, words: list[str]) -> None:
    code, out, err = dpft(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("dpft: ")
    assert "Try dpft" in err


@pytest.mark.parametrize("examples", ["0", "-3"])
def test_budget_refuses_examples_that_are_none(dpft: Command, examples: str) -> None:
    assert_refused(dpft("budget", f"--examples={examples}", *BUDGET), "examples")


def test_a_run_that_is_none_or_unfinished_is_refused(dpft: Command, tmp_path: Path) -> None:
    for verb in (["evaluate"], ["predict", "--text", "a"], ["resume"]):
        assert_refused(dpft(*verb, tmp_path / "nowhere"), "run.json")
    assert_refused(dpft("methods", "slahs"), "did you mean slash?")


def test_predict_refuses_both_or_neither_of_text_and_file(dpft: Command, tmp_path: Path) -> None:
    Path("texts.txt").write_text("a film\n")
    assert_refused(dpft("predict", tmp_path, "--text", "a", "--file", "texts.txt"), "--text and --file")
    assert_refused(dpft("predict", tmp_path), "--text and --file")
    assert_refused(dpft("predict", tmp_path, "--file", "nowhere.txt"), "--file must be a UTF-8 text file")
    Path("texts.txt").write_bytes(b"caf\xe9\n")
    assert_refused(dpft("predict", tmp_path, "--file", "texts.txt"), "--file must be a UTF-8 text file")


def test_an_unexpected_error_shows_its_type_and_never_its_text(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message could quote a row; with DPFT_DEBUG it may."""

    def fail() -> None:
        raise LookupError("patient 4711 has measles")

    monkeypatch.setattr("dpft.methods.names", fail)
    code, out, err = dpft("methods")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "unexpected LookupError" in err
    assert "4711" not in err
    monkeypatch.setenv("DPFT_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["dpft", "methods"])
    with pytest.raises(LookupError):
        main()


# What works


def test_help_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nfrom dpft.cli import main\nsys.argv = ['dpft', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('loaded:', *(m for m in ('torch', 'transformers', 'pandas', 'numpy', 'scipy') if m in sys.modules))"
    )
    for words in (["--help"], ["train", "--help"], ["predict", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith("loaded:")
        assert "Usage: dpft" in done.stdout


def test_train_ends_with_where_it_lies_and_what_next(dpft: Command, asked: list[object]) -> None:
    code, out, err = dpft("train", *asked, *BUDGET)
    assert code == 0
    (run,) = Path("runs").iterdir()
    lines = out.splitlines()
    assert lines[-2] == f"lies in     {run}"
    assert f"dpft predict {run}" in lines[-1]
    assert lines[-1].endswith(f"dpft export {run} --to DIR --with-code")  # it reads the mean of all tokens
    assert "-differential privacy for adding or removing one example" in out
    assert NOT_PRIVATE not in out + err
    assert {p.name for p in run.iterdir()} >= {
        "spec.json", "plan.json", "result.json", "privacy.json", "run.json", "adapter.safetensors"
    }  # fmt: skip


def test_train_json_is_the_result_and_the_ledger_holds_every_step(finished: Callable[..., dict[str, Any]]) -> None:
    result = finished(*BUDGET)
    run = Path(result["path"])
    assert set(result) == FIELDS
    assert result == json.loads((run / "result.json").read_text())
    assert (result["steps"], result["trainable"], result["private"]) == (10, 16 + 2 * 33, True)
    assert 0 < result["epsilon"] <= 8
    assert ledger_rows() >= 10
    card = json.loads((run / "privacy.json").read_text())
    assert (card["private"], card["steps_charged"], card["units"]) == (True, 10, 400)


def test_evaluate_finds_the_value_of_the_result(dpft: Command, finished: Callable[..., dict[str, Any]]) -> None:
    result = finished(*BUDGET)
    code, out, _ = dpft("evaluate", result["path"], "--precision", "fp32", "--json")
    assert code == 0
    assert json.loads(out) == {
        "run": result["path"], "metric": "accuracy", "value": result["value"], "further": {}, "private": True,
        "classes": result["classes"],
    }  # fmt: skip
    code, out, _ = dpft("evaluate", result["path"], "--precision", "fp32")
    assert out.startswith(f"accuracy {result['value']:.4f} on the validation rows of glue/sst2")
    assert out.splitlines()[2].startswith("recall negative ")


def test_predict_labels_texts_from_flags_and_files_alike(
    dpft: Command, finished: Callable[..., dict[str, Any]]
) -> None:
    run = finished(*BUDGET)["path"]
    texts = ["a good film", "", "the story is dull\u2028and long"]
    Path("texts.txt").write_text("".join(f"{t}\n" for t in texts), encoding="utf-8")
    flags = [word for text in texts for word in ("--text", text)]
    code, plain, err = dpft("predict", run, *flags)
    assert (code, err) == (0, "")
    assert [line.split("\t")[2] for line in plain.rstrip("\n").split("\n")] == texts
    assert all(line.split("\t")[0] in ("negative", "positive") for line in plain.rstrip("\n").split("\n"))
    assert dpft("predict", run, "--file", "texts.txt") == (0, plain, "")
    code, out, _ = dpft("predict", run, "--file", "texts.txt", "--json")
    found = [json.loads(line) for line in out.rstrip("\n").split("\n")]
    assert [one["text"] for one in found] == texts
    assert all(set(one) == {"text", "label", "probability", "private"} for one in found)
    assert all(0.5 <= one["probability"] <= 1 and one["private"] for one in found)


def test_predict_on_an_empty_file_labels_nothing(dpft: Command, finished: Callable[..., dict[str, Any]]) -> None:
    run = finished(*BUDGET)["path"]
    Path("texts.txt").write_text("")
    assert dpft("predict", run, "--file", "texts.txt") == (0, "", "")


def test_pairs_train_and_are_read_from_flags_and_tab_separated_lines(
    dpft: Command, tiny_bert: Path, glue_folder: Folder
) -> None:
    code, out, err = dpft(
        "train", *BUDGET, "--task", "glue/rte", "--data", glue_folder("rte"), "--model", tiny_bert, "--batch-size", 40,
        "--epochs", 1, "--max-length", 32, "--precision", "fp32", "--option", "dim=16", "--json",
    )  # fmt: skip
    assert code == 0, err
    run = json.loads(out)["path"]
    Path("pairs.txt").write_text("a film\tit is good\nthe cast\tit is bad\n")
    flags = ["--text", "a film", "--pair", "it is good", "--text", "the cast", "--pair", "it is bad"]
    code, out, _ = dpft("predict", run, "--file", "pairs.txt")
    assert code == 0
    assert out.count("\n") == 2
    assert dpft("predict", run, *flags) == (0, out, "")
    code, _, err = dpft("predict", run, *flags, "--pair", "one too many")
    assert (code, err.count("\n")) == (2, 1)


def test_a_score_task_predicts_numbers(dpft: Command, tiny_bert: Path, glue_folder: Folder) -> None:
    code, out, err = dpft(
        "train", *BUDGET, "--task", "glue/stsb", "--data", glue_folder("stsb"), "--model", tiny_bert,
        "--batch-size", 40, "--epochs", 1, "--max-length", 32, "--precision", "fp32", "--option", "dim=16", "--json",
    )  # fmt: skip
    assert code == 0, err
    run = json.loads(out)["path"]
    code, out, _ = dpft("predict", run, "--text", "a film", "--pair", "a story")
    assert re.fullmatch(r"-?\d+\.\d{3}\ta film\n", out)
    code, out, _ = dpft("predict", run, "--text", "a film", "--pair", "a story", "--json")
    assert json.loads(out)["probability"] is None


def test_a_rate_named_beside_a_spec_file_is_the_heads_too_unless_that_is_named(tmp_path: Path) -> None:
    # Catches the head's rate of another rate's run, or of words, taken along where no flag could take it off.
    from dpft.cli.run.train import _spec

    file = tmp_path / "spec.json"
    file.write_text(json.dumps(Spec(learning_rate=0.01, head_learning_rate=0.3, budget=Budget(8.0, 1e-5)).to_json()))
    rates = {
        json.dumps(asked): _spec(file, asked, None, None, False).head_learning_rate
        for asked in ({}, {"seed": 1}, {"learning_rate": 0.02}, {"method": "linear"},
                      {"learning_rate": 0.02, "head_learning_rate": 0.1})
    }  # fmt: skip
    assert list(rates.values()) == [0.3, 0.3, None, None, 0.1]


def test_a_runs_spec_repeats_it_and_flags_override_it(dpft: Command, finished: Callable[..., dict[str, Any]]) -> None:
    first = finished(*BUDGET, "--seed", 3)
    file = Path(first["path"]) / "spec.json"
    code, out, err = dpft("train", "--spec", file, "--precision", "fp32", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert again["path"] != first["path"]
    assert (Path(again["path"]) / "spec.json").read_bytes() == file.read_bytes()
    code, out, err = dpft("train", "--spec", file, "--epsilon", 9, "--precision", "fp32", "--json")
    assert code == 0, err
    changed = Spec.from_json(json.loads((Path(json.loads(out)["path"]) / "spec.json").read_text()))
    assert changed.budget is not None
    assert (changed.budget.epsilon, changed.budget.delta, changed.seed) == (9, 1e-4, 3)


def test_a_run_without_a_budget_says_so_everywhere(dpft: Command, asked: list[object]) -> None:
    code, out, _ = dpft("train", *asked, "--non-private")
    assert code == 0
    assert NOT_PRIVATE in out
    assert "differential privacy" not in out
    (run,) = Path("runs").iterdir()
    assert "NOT-PRIVATE" in run.name
    card = json.loads((run / "privacy.json").read_text())
    assert card["private"] is False
    assert NOT_PRIVATE in card["statement"]
    assert "epsilon" not in card
    result = json.loads((run / "result.json").read_text())
    assert (result["private"], result["epsilon"], result["delta"]) == (False, None, None)
    assert ledger_rows() == 0
    _, out, _ = dpft("evaluate", run)
    assert NOT_PRIVATE in out
    _, out, err = dpft("predict", run, "--text", "a")
    assert NOT_PRIVATE in err
    for verb in (["evaluate", run], ["predict", run, "--text", "a"]):
        _, out, _ = dpft(*verb, "--json")
        assert json.loads(out)["private"] is False


def test_a_finished_run_resumes_to_its_own_result(dpft: Command, finished: Callable[..., dict[str, Any]]) -> None:
    result = finished(*BUDGET)
    rows = ledger_rows()
    code, out, _ = dpft("resume", result["path"], "--json")
    assert (code, json.loads(out)) == (0, result)
    assert ledger_rows() == rows


def test_what_comes_built_in_is_said_once_the_run_is_accepted(
    dpft: Command, builtin: str, tiny_bert: Path, glue_folder: Folder
) -> None:
    words = ["train", *BUDGET, "--task", "glue/sst2", "--batch-size", 40, "--max-length", 16, "--epochs", "0.1"]
    code, _, err = dpft(*words, "--data", glue_folder())
    assert code == 0
    assert "using the built-in encoder" in err
    assert "built-in task" not in err


def test_budget_json_is_the_plan(dpft: Command) -> None:
    words = ["budget", "--examples", 400, "--batch-size", 40, "--epochs", 1, *BUDGET]
    code, out, err = dpft(*words, "--json")
    assert (code, err) == (0, "")
    plan = Plan.from_json(json.loads(out))
    assert set(json.loads(out)) == {field.name for field in dataclasses.fields(Plan)}
    assert (plan.steps, plan.rate, plan.expected_batch) == (10, 0.1, 40)
    code, out, err = dpft(*words)
    assert (code, err) == (0, "")
    assert f"σ {plan.noise:.5f}" in out
    assert not Path("ledger.sqlite").exists()


def test_methods_and_tasks_list_what_train_takes(dpft: Command) -> None:
    from dpft import methods, tasks

    code, out, _ = dpft("methods", "--json")
    assert [method["name"] for method in json.loads(out)] == methods.names()
    code, out, _ = dpft("methods", "slash", "--json")
    assert json.loads(out)["options"]["dim"] == 1024
    code, out, _ = dpft("methods", "slash")
    assert "--option dim=1024" in out
    code, out, _ = dpft("tasks", "--json")
    assert [task["name"] for task in json.loads(out)] == list(tasks.names())
    for verb, names in (("methods", methods.names()), ("tasks", tasks.names())):
        code, out, err = dpft(verb)
        assert (code, err) == (0, "")
        assert all(name in out for name in names)


def test_a_method_is_counted_on_the_chosen_model_and_placed_in_table_1(dpft: Command, tiny_bert: Path) -> None:
    code, out, _ = dpft("methods", "lora", "--model", tiny_bert, "--labels", 3, "--option", "rank=1")
    assert code == 0
    assert f"{2 * 2 * 64 + 3 * 33:,} trainable parameters" in out
    assert "parameter sharing: no, efficient inference: yes, multi layer: yes" in out
    assert_refused(
        dpft("methods", "slash", "--model", tiny_bert),
        "dim must be at most 64, the sum of this model's shifts, got 1024; pass --option dim=64",
    )
    assert_refused(dpft("methods", "lora", "--model", "no/such/folder"), "the model must be a folder or a hub id")


def test_peft_lists_its_tuners_and_their_options(dpft: Command, tiny_bert: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra `peft`")
    code, out, _ = dpft("methods", "peft", "--model", tiny_bert, "--option", "type=ia3")
    assert code == 0
    assert "types: " in out
    assert "options of ia3: " in out
    assert "target_modules" in out
    assert_refused(dpft("methods", "peft", "--option", "type=iA4"), "type must be one of ")
