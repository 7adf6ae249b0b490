"""Synthetic rows judged beside real ones: what may be shown is shown, and nothing of a training row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dpft import objectives, tasks
from dpft.errors import UserError
from dpft.generation import judge as module
from dpft.generation.copies import Copies, Longest
from dpft.generation.judge import SyntheticReport, SyntheticRows, judge, judge_prompts
from dpft.generation.usefulness import Probe, RealRows, Scores
from dpft.machine.hardware import Hardware, resolve
from dpft.objectives import Objective
from dpft.objectives.language import Continuation
from dpft.privacy.mechanism.plan import make_plan
from dpft.runs.folder import Run
from dpft.runs.past_data import PastData
from dpft.spec import Budget, Machine, Spec
from tests.calling import Command
from tests.conftest import BAD, GOOD, WORDS

NAMES = ("bad", "good")
SEEN, UNSEEN = "boring", "moving"  # a word of every training row, and of every validation row


@dataclass
class Writing:
    """What `judge` needs of a trained model: a run, its labels, and what it writes."""

    run: Run
    labels: tuple[str, ...]
    hardware: Hardware = field(default_factory=lambda: resolve(Machine("cpu", "fp32")))
    objective: Objective = field(default_factory=lambda: objectives.load("language-model"))
    private: bool = True
    asked: list[str] = field(default_factory=list)

    def saw(self, data: str | None = None) -> bool:
        return False

    def write(self, prompts: Sequence[str]) -> list[Continuation]:
        self.asked += prompts
        return [Continuation(f"written after {prompt.split()[-1]}", "stop") for prompt in prompts]


def rows(count: int, seed: int, mark: str) -> list[dict[str, str]]:
    rng = Random(seed)
    kinds = [rng.randrange(2) for _ in range(count)]
    return [
        {"text": f"the film is {rng.choice((BAD, GOOD)[kind])} {mark} {rng.choice(WORDS)}", "label": NAMES[kind],
         "prompt": f"say {number % 7}"}
        for number, kind in enumerate(kinds)
    ]  # fmt: skip


def write_lines(file: Path, found: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return file


Made = Callable[..., Writing]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A factory: a run folder on training and validation rows of made-up messages, as a training leaves it."""

    def make(validation: bool = True, **fields: Any) -> Writing:
        data = tmp_path / "data"
        data.mkdir()
        write_lines(data / "train.jsonl", rows(120, 0, SEEN))
        if validation:
            write_lines(data / "validation.jsonl", rows(40, 1, UNSEEN))
        given = {"text": "text", "label": "label", "batch_size": 16, "epochs": 1, **fields}
        spec = Spec(task="text/files", data=str(data), **given)
        task = tasks.load(spec)
        run = Run.create(tmp_path / "runs", spec, make_plan(spec, len(task.train)), "nowhere", lambda _: "")
        PastData.of(run.id, task.train, None, begun=False).keep(run)
        return Writing(run, task.labels)

    return make


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "synthetic.jsonl", [{**row, "finish_reason": "stop"} for row in rows(60, 2, "fresh")])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_bert: Path) -> None:
    """The probe on a tiny encoder."""
    monkeypatch.setattr(module, "Probe", lambda task, spec, hardware, _: Probe(task, spec, hardware, str(tiny_bert)))


# Figures on training rows that nothing else in the output can be.
MARKED = Copies(40, Longest(77.12345, 78.23456, 7934), Longest(73.34567, 74.45678, 7357), 0.87654, 0.76543,
                Longest(81.56789, 82.67891, 8395))  # fmt: skip
REAL = RealRows(Scores(0.91827, 0.92738), Scores(0.83746, 0.84657), None)


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    monkeypatch.setattr(module, "copies", lambda *_: MARKED)
    monkeypatch.setattr(Probe, "real", lambda self, folder: REAL)


def leaked(words: str, private: Path) -> list[str]:
    """Which private figures, to three digits, and which words of a real row are in `words`."""
    told = json.loads(private.read_text())
    figures = re.findall(r"\d+\.\d+|\b\d{4}\b", json.dumps([told["copies"], told["real"]]))
    assert len(figures) == 15
    found = [figure for figure in figures if figure[: max(4, figure.find(".") + 3)] in words]
    return found + [word for word in (SEEN, UNSEEN) if word in words]


def evaluate(dpft: Command, monkeypatch: pytest.MonkeyPatch, trained: Writing, *words: object) -> str:
    monkeypatch.setattr("dpft.inference.trained_model.load", lambda *_, **__: trained)
    code, out, err = dpft("evaluate", trained.run.path, *words)
    assert code == 0, err
    return out + err


def bug_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def bug_prints_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def talkative(*_: object) -> Copies:
        print(f"longest copy {MARKED.training.mean:.4f}")
        return MARKED

    monkeypatch.setattr(module, "copies", talkative)


def bug_reports_the_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SyntheticReport.to_json
    monkeypatch.setattr(SyntheticReport, "to_json", lambda self: {**own(self), "real_rows": REAL.exact.f1_macro})


def bug_takes_the_probe_of_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "synthetic", lambda *_: REAL.private)


@pytest.mark.parametrize(
    ("bug", "flags"),
    [
        (bug_nothing, ()), (bug_nothing, ("--json",)), (bug_prints_copies, ()),
        (bug_reports_the_real_rows, ("--json",)), (bug_takes_the_probe_of_real_rows, ()),
    ],
)  # fmt: skip
def test_no_figure_on_training_rows_is_printed_and_a_bug_that_prints_one_is_caught(
    bug: Callable[[pytest.MonkeyPatch], None], flags: tuple[str, ...], made: Made, synthetic: Path, dpft: Command,
    monkeypatch: pytest.MonkeyPatch, marked: None,
) -> None:  # fmt: skip
    trained = made()
    bug(monkeypatch)
    said = evaluate(dpft, monkeypatch, trained, "--synthetic", synthetic, *flags)
    private = trained.run.path / "private" / "synthetic.json"
    beside = "".join(file.read_text() for file in trained.run.path.glob("*.json"))
    assert bool(leaked(said + beside, private)) == (bug is not bug_nothing)
    assert str(private) in said
    assert private.stat().st_mode & 0o077 == 0


def test_the_whole_line_on_a_private_run(
    made: Made, synthetic: Path, dpft: Command, monkeypatch: pytest.MonkeyPatch, small: None, tmp_path: Path
) -> None:
    """Nothing is replaced but the encoder, which is tiny: the private training beside it is a real one."""
    trained = made(budget=Budget(50.0, 1e-3), batch_size=None, epochs=None)  # as the private training beside it
    told = json.loads(evaluate(dpft, monkeypatch, trained, "--synthetic", synthetic, "--json"))
    assert (told["synthetic"]["rows"], told["real"]["rows"], told["synthetic"]["compared"]) == (60, 40, 40)
    assert told["finished"] == {"stop": 1.0}
    assert told["missing"] == []
    assert told["useful"]["accuracy"] > 0.7
    private = json.loads(Path(told["private_figures"]).read_text())
    assert private["useful"] == told["useful"]
    assert private["real"]["exact"]["accuracy"] > 0.7
    assert set(private["real"]["private"]) == {"f1_macro", "accuracy"}
    assert private["copies"]["compared"] == 40
    assert sorted(file.name for file in (trained.run.path / "private").iterdir()) == ["rows.json", "synthetic.json"]
    assert not (tmp_path / "ledger.sqlite").exists()  # the user's is not charged
    monkeypatch.setattr(Probe, "real", lambda self, folder: REAL)
    lines = evaluate(dpft, monkeypatch, trained, "--synthetic", synthetic)
    assert f"accuracy {told['useful']['accuracy']:.4f}" in lines
    assert "in no ledger" in lines


def test_a_run_without_labels_has_no_probe(made: Made, synthetic: Path, dpft: Command, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "Probe", None)
    trained = made(label=None)
    assert judge(trained, synthetic).useful is None  # type: ignore[arg-type]
    said = evaluate(dpft, monkeypatch, trained, "--synthetic", synthetic)
    assert "useful" not in said
    assert "private training" not in said


def test_a_label_that_no_synthetic_row_has_is_told(made: Made, tmp_path: Path, marked: None) -> None:
    one = [row for row in rows(30, 3, "fresh") if row["label"] == "good"]
    found = judge(made(), write_lines(tmp_path / "one.jsonl", one))  # type: ignore[arg-type]
    assert found.missing == ("bad",)
    assert found.finished is None
    assert found.useful is not None
    assert found.useful.accuracy < 0.8


def test_one_row_and_an_empty_text_are_judged(made: Made, tmp_path: Path, marked: None) -> None:
    found = judge(made(), write_lines(tmp_path / "one.jsonl", [{"text": "", "label": "bad"}]))  # type: ignore[arg-type]
    assert (found.synthetic.rows, found.synthetic.empty, found.synthetic.compared) == (1, 1.0, 1)


def test_of_a_chat_the_assistants_turns_are_compared(made: Made, tmp_path: Path, monkeypatch: Any) -> None:
    data = tmp_path / "chats"
    data.mkdir()
    for split, told in (("train", "yes it is open today"), ("validation", "no it is closed")):
        turns = [{"role": "user", "content": f"{UNSEEN} is it open"}, {"role": "assistant", "content": told}]
        write_lines(data / f"{split}.jsonl", [{"chat": turns}])
    spec = Spec(task="text/files", data=str(data), messages="chat", batch_size=1, epochs=1, clip=1)
    run = Run.create(tmp_path / "runs", spec, make_plan(spec, 1), "nowhere", lambda _: "")
    seen: list[list[str]] = []
    monkeypatch.setattr(module, "copies", lambda *sides: seen.extend(sides) or MARKED)
    file = write_lines(tmp_path / "rows.jsonl", [{"text": "yes"}])
    judge(Writing(run, ()), file)  # type: ignore[arg-type]
    assert seen == [["yes"], ["yes it is open today"], ["no it is closed"]]


@pytest.mark.parametrize(
    ("content", "name", "rule"),
    [
        ("", "a.jsonl", "at least one row, got none in a.jsonl"),
        ("text,label\n", "a.csv", "at least one row, got none in a.csv"),
        (
            '{"text": "TEXT", "label": "good"}\n{"text": "TEXT", "label": "other"}',
            "a.jsonl",
            "got another in line 2 of",
        ),
        ('{"text": "TEXT", "label": null}', "a.jsonl", "one of the run's 2 labels, got another in line 1"),
        ('{"text": null, "label": "good"}', "a.jsonl", "a text, got none in the column 'text' of line 1"),
        ('{"text": "TEXT"}', "a.jsonl", "none named 'label'"),
        ("TEXT", "a.txt", "data must be a file in"),
        ("TEXT {", "a.jsonl", "one JSON object"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_without_its_text(
    content: str, name: str, rule: str, made: Made, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(rule)) as caught:
        judge(made(), file)  # type: ignore[arg-type]
    assert "TEXT" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unicode_survives_every_format(tmp_path: Path) -> None:
    import pandas as pd

    texts = ['漢字, "quoted"\nnew line', "naïve – ok", ""]
    frame = pd.DataFrame({"text": texts, "label": ["good", "bad", "good"], "finish_reason": ["stop", "length", "stop"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True, force_ascii=False)
    for file in sorted(tmp_path.glob("a.*")):
        found = SyntheticRows.read(file, Spec(), NAMES)
        assert (found.texts, found.reasons) == (texts, ["stop", "length", "stop"])
        assert found.labels is not None
        assert found.labels.tolist() == [1, 0, 1]


def test_runs_that_cannot_be_judged_are_refused(made: Made, synthetic: Path, tmp_path: Path, dpft: Command) -> None:
    trained = made(validation=False, label=None)
    with pytest.raises(UserError, match="without a validation set; pass --data FILE"):
        judge(trained, synthetic)  # type: ignore[arg-type]
    found = write_lines(tmp_path / "held.jsonl", rows(20, 8, UNSEEN))
    assert judge(trained, synthetic, str(found)).real.rows == 20  # type: ignore[arg-type]
    write_lines(Path(str(trained.run.spec.data)) / "train.jsonl", rows(120, 9, SEEN))
    with pytest.raises(UserError, match="rows that the run was trained on, got others"):
        judge(trained, synthetic, str(found))  # type: ignore[arg-type]
    trained.objective = objectives.plain(2)
    with pytest.raises(UserError, match="--synthetic is for a run that writes, got one that gives one answer a text"):
        judge(trained, synthetic)  # type: ignore[arg-type]
    assert dpft("evaluate", trained.run.path, "--synthetic", synthetic, "--generate", 3)[0] == 2


def test_prompts_are_written_once_and_compared_with_all_their_rows(
    made: Made, dpft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sacrebleu")
    trained = made(prompt="prompt", label=None)
    seen: list[dict[str, list[str]]] = []
    own = module.agreement
    monkeypatch.setattr(
        module, "agreement", lambda references, written: seen.append(references) or own(references, written)
    )
    said = evaluate(dpft, monkeypatch, trained, "--generate", 5)
    assert trained.asked == [f"say {number}" for number in range(5)]
    assert [len(texts) for texts in seen[0].values()] == [6, 6, 6, 6, 6, 5, 5]  # 40 rows of 7 prompts
    assert re.fullmatch(r"BLEU [\d.]+, chrF [\d.]+, ROUGE-L [\d.]+ after 5 prompts of the validation rows .*\n", said)
    assert UNSEEN not in said
    assert judge_prompts(trained, 100).prompts == 7  # type: ignore[arg-type]
    with pytest.raises(UserError, match="above 0, got 0"):
        judge_prompts(trained, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("columns", "found"), [({"label": None}, "got none"), ({}, "control codes alone")])
def test_runs_without_prompts_have_no_references(columns: dict[str, Any], found: str, made: Made) -> None:
    with pytest.raises(UserError, match=found):
        judge_prompts(made(**columns), 3)  # type: ignore[arg-type]


def test_control_codes_are_put_before_prompts(made: Made) -> None:
    pytest.importorskip("sacrebleu")
    trained = made(prompt="prompt")
    judge_prompts(trained, 1)  # type: ignore[arg-type]
    assert re.fullmatch(r"Label: (good|bad)\nsay 0", trained.asked[0])
