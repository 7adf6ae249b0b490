"""Texts to write, read from a user's own tables and from E2E: prompts, chats, control codes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpft import tasks
from dpft.data.documents import Documents
from dpft.errors import UserError
from dpft.privacy.ledger import Ledger
from dpft.privacy.ledger.storage.fingerprints import Sketch
from dpft.runs import overlap
from dpft.runs.canary_rows import with_canary_rows
from dpft.spec import BUILTIN_LM, Spec, canonical_json

SECRET = "patient-4711-has-measles"
KEY = b"k" * 32
COLUMNS = ("body", "ask", "team", "who")
ROWS = [
    ("the pump, it leaks", 'what is\n"wrong"?', "water", "ann"),
    ("café is shut", "", "power", "bob"),
    ("it leaks again", "again?", "water", "ann"),
]
CHAT = [{"role": "user", "content": 'a "film"?'}, {"role": "assistant", "content": "the café"}]


def write(path: Path, rows: Sequence[Sequence[Any]], columns: Sequence[str] = COLUMNS) -> Path:
    """A table in the format that the file's name ends with."""
    table = pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        table.to_csv(path, index=False, encoding="utf-8", sep="\t" if path.suffix == ".tsv" else ",")
    return path


def spec(data: Path, **more: Any) -> Spec:
    return Spec(task="text/files", data=str(data), **{"text": "body", **more})


def refusal(wanted: Spec) -> str:
    with pytest.raises(UserError) as caught:
        tasks.load(wanted)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert ", got " in line
    return line


@pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
def test_texts_prompts_and_labels_are_read_from_every_format(tmp_path: Path, end: str) -> None:
    task = tasks.load(spec(write(tmp_path / f"rows.{end}", ROWS), prompt="ask", label="team", max_windows=3))
    assert list(task.train.texts) == [row[0] for row in ROWS]
    assert task.labels == ("power", "water")
    assert task.train.labels.tolist() == [1, 0, 1]
    assert task.train.pairs is not None
    assert list(task.train.pairs) == [f"Label: {team}\n{ask}" for _, ask, team, _ in ROWS]
    assert task.train.documents == Documents(windows=3)
    assert task.read_from_training == ("the label names",)
    assert task.judged == {}
    assert any("no validation set" in note for note in task.notes)


def test_documents_alone_have_no_prompt_and_no_label(tmp_path: Path) -> None:
    task = tasks.load(spec(write(tmp_path / "rows.csv", ROWS)))
    assert (task.train.pairs, task.labels, task.train.labels.tolist()) == (None, (), [0, 0, 0])
    assert (task.objective.kind, task.outputs, task.read_from_training) == ("language-model", 0, ())
    assert task.metric == task.objective.metrics[0].name


def test_a_prompt_alone_is_a_prompt_and_a_label_alone_is_a_prompt(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", ROWS)
    prompted, coded = tasks.load(spec(file, prompt="ask")), tasks.load(spec(file, label="team"))
    assert list(prompted.train.pairs or ()) == [row[1] for row in ROWS]
    assert list(coded.train.pairs or ()) == [f"Label: {row[2]}\n" for row in ROWS]


@pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
def test_chats_are_lists_or_their_json(tmp_path: Path, end: str) -> None:
    cells = [[CHAT if end != "csv" else json.dumps(CHAT)], [json.dumps(CHAT[::-1]) if end == "csv" else CHAT[::-1]]]
    file = write(tmp_path / f"rows.{end}", cells, ("turns",))
    task = tasks.load(spec(file, text=None, messages="turns"))
    assert list(task.train.texts) == [canonical_json(CHAT), canonical_json(CHAT[::-1])]
    assert task.train.documents == Documents(chat=True)
    assert task.train.pairs is None
    if end == "jsonl":
        texts = write(tmp_path / "strings.jsonl", [[json.dumps(CHAT)]], ("turns",))
        assert list(tasks.load(spec(texts, text=None, messages="turns")).train.texts) == [canonical_json(CHAT)]


def test_a_folder_and_a_validation_file_are_read_with_the_runs_columns_and_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "validation.jsonl", ROWS[1:2])
    asked = spec(tmp_path, prompt="ask", label="team")
    task = tasks.load(asked)
    assert task.validation is not None
    assert (list(task.validation.pairs or ()), task.validation.labels.tolist()) == (["Label: power\n"], [0])
    other = write(tmp_path / "other.csv", ROWS[2:])
    parts = tasks.judged(asked, str(other), task.objective, task.labels)
    assert (list(parts[""].texts), parts[""].labels.tolist()) == (["it leaks again"], [1])
    apart = tasks.load(spec(tmp_path / "train.csv", validation=str(other)))
    assert apart.validation is not None
    assert list(apart.validation.texts) == ["it leaks again"]
    unknown = write(tmp_path / "unknown.csv", [(SECRET, "", SECRET, "ann")])
    with pytest.raises(UserError, match="among the 2 known ones") as caught:
        tasks.judged(asked, str(unknown), task.objective, task.labels)
    assert SECRET not in str(caught.value)


def test_of_each_unit_the_first_rows_are_used_with_their_own_prompts(tmp_path: Path) -> None:
    """Injected bug: prompts or labels of all rows beside the texts of some, so that each is another person's."""
    rows = [(f"text {i}", f"ask {i}", f"team {i // 3}", "ann" if i < 4 else "bob") for i in range(6)]
    file = write(tmp_path / "rows.csv", rows)
    train = tasks.load(spec(file, prompt="ask", label="team", unit="who", max_per_unit=2)).train
    assert list(train.texts) == ["text 0", "text 1", "text 4", "text 5"]
    assert list(train.pairs or ()) == [f"Label: team {i // 3}\nask {i}" for i in (0, 1, 4, 5)]
    assert train.units is not None
    assert train.units.tolist() == [0, 0, 1, 1]
    assert train.labels.tolist() == [0, 0, 1, 1]


def test_stated_labels_are_not_read_from_training(tmp_path: Path) -> None:
    task = tasks.load(spec(write(tmp_path / "rows.csv", ROWS), label="team", labels=("water", "power", "air")))
    assert (task.labels, task.read_from_training) == (("water", "power", "air"), ())
    assert task.train.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("text", ["", "  ", None])
def test_an_empty_text_is_refused_by_its_row(tmp_path: Path, text: str | None) -> None:
    file = write(tmp_path / "rows.jsonl", [(SECRET, SECRET, "a", "b"), (text, SECRET, "a", "b")])
    assert "line 2 of rows.jsonl" in refusal(spec(file))


def test_a_missing_prompt_is_refused_and_an_empty_one_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [(SECRET, "", "a", "b"), (SECRET, None, "a", "b")])
    assert "line 2 of rows.jsonl" in refusal(spec(file, prompt="ask"))


BAD = {
    "roles of a chat must be": [{"role": "boss", "content": SECRET}],
    "got none in": [{"role": "user", "content": SECRET}],
    "got an empty one": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": ""}],
    "list of messages": SECRET,
    "no more": [{"role": "assistant", "content": SECRET, "tool": "x"}],
    "a content": [{"role": "assistant"}],
}


@pytest.mark.parametrize(("told", "chat"), BAD.items(), ids=BAD)
def test_what_is_no_chat_is_refused_by_its_row(tmp_path: Path, told: str, chat: Any) -> None:
    line = refusal(spec(write(tmp_path / "rows.jsonl", [(CHAT,), (chat,)], ("turns",)), text=None, messages="turns"))
    assert told in line
    assert "line 2 of rows.jsonl" in line


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"text": None}, "needs --text or --messages, got neither"),
        ({"messages": "turns"}, "needs --text or --messages, got both"),
        ({"text": None, "messages": "turns", "prompt": "ask"}, "--prompt or --label beside --messages"),
        ({"text": None, "messages": "turns", "label": "team"}, "--prompt or --label beside --messages"),
        ({"prompt": "body"}, "got one twice"),
        ({"label": "body"}, "got one twice"),
        ({"labels": ("a", "b")}, "got --labels alone"),
        ({"pair": "ask"}, "only the task files takes --pair"),
        ({"kind": "regression"}, "only the task files takes --kind"),
        ({"class_weights": {"a": 1.0}}, "class-weights go with one label"),
        ({"representation": "token"}, ""),
        ({"text": "none"}, "got none named 'none'"),
        ({"label": "team,who"}, "got none named 'team,who'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    wanted = spec(write(tmp_path / "rows.csv", ROWS), **more)
    if "representation" in more:
        with pytest.raises(UserError):
            tasks.settled(wanted)
    else:
        assert told in refusal(wanted)


def test_no_data_are_refused() -> None:
    for task in ("text/files", "text/e2e"):
        assert "got no --data" in refusal(Spec(task=task, text=None if task == "text/e2e" else "body"))


@pytest.mark.parametrize("task", ["sample", "glue/sst2", "files", "ner/files"])
@pytest.mark.parametrize(
    "more",
    [{"prompt": "a"}, {"messages": "a"}, {"max_windows": 2}, {"token_loss": "sum"}],
    ids=lambda each: next(iter(each)),
)
def test_other_tasks_take_no_flags_of_texts_to_write(task: str, more: dict[str, Any]) -> None:
    assert "text/files" in refusal(Spec(task=task, **more))


def test_a_task_that_writes_settles_the_built_in_language_model_and_no_other(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", ROWS)
    settled = tasks.settled(spec(file))
    assert (settled.model, settled.representation) == (BUILTIN_LM, "none")
    assert tasks.settled(settled) == settled
    assert tasks.settled(spec(file, model="mine")).model == "mine"
    assert tasks.settled(Spec()).model == Spec.model


# Whose rows these are


def test_a_completion_that_was_used_before_is_recognised(tmp_path: Path) -> None:
    """Injected bug: fingerprints of prompts alone, by which other people's answers to the same questions are known, and
    the same answers after other questions, or control codes, are not."""
    rows = [(f"the answer {i}", f"ask {i}", f"team {i % 2}", "x") for i in range(40)]
    file = write(tmp_path / "rows.csv", rows)
    others = write(tmp_path / "others.csv", [(f"another {i}", f"ask {i % 2}", f"team {i % 2}", "x") for i in range(40)])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:

        def sketch(wanted: Spec) -> Sketch:
            train = tasks.load(wanted).train
            return ledger.data_identity(train.texts, train.pairs).sketch

        before = sketch(spec(file, prompt="ask"))
        for again in (spec(file), spec(file, label="team"), spec(file, prompt="ask", label="team"),
                      Spec(task="files", data=str(file), text="body", label="team")):  # fmt: skip
            assert sketch(again).matches(before)
        assert not sketch(spec(others, prompt="ask")).matches(before)
        assert not sketch(spec(others, label="team")).matches(sketch(spec(file, label="team")))


def test_a_validation_row_is_a_training_row_where_prompt_and_text_are(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", ROWS)
    same = write(tmp_path / "same.csv", [("new", ROWS[0][1], "water", "x"), ROWS[2]])
    near = write(tmp_path / "near.csv", [(ROWS[0][0], ROWS[2][1], "water", "x"), ("new", ROWS[0][1], "power", "x")])
    assert overlap.shared_records(tasks.load(spec(file, prompt="ask", validation=str(same)))) == 2
    assert overlap.shared_records(tasks.load(spec(file, prompt="ask", validation=str(near)))) is None
    assert overlap.shared_records(tasks.load(spec(file, label="team", validation=str(same)))) == 2
    chats = write(tmp_path / "chats.jsonl", [(CHAT,)], ("turns",))
    asked = spec(chats, text=None, messages="turns", validation=str(chats))
    assert overlap.shared_records(tasks.load(asked)) == 1


def test_canaries_are_texts_to_write_after_prompts_of_their_own(tmp_path: Path) -> None:
    asked = spec(write(tmp_path / "rows.csv", ROWS), prompt="ask", canaries=8)
    train = with_canary_rows(tasks.load(asked), asked).train
    assert (len(train), train.documents) == (11, Documents())
    assert train.pairs is not None
    assert all(prompt.startswith("The code of ") for prompt in list(train.pairs)[3:])


# E2E


@pytest.fixture
def e2e(tmp_path: Path) -> Path:
    rows = [("name[A], food[B]", "A serves B.", 0), ("name[A], food[B]", "B\nat A.", 1), ("name[C]", "C.", 2)]
    columns = ("meaning_representation", "human_reference", "idx")
    write(tmp_path / "train.parquet", rows[::-1], columns)
    write(tmp_path / "validation.parquet", rows, columns)
    return tmp_path


def test_e2e_is_read_with_its_references_in_order(e2e: Path, tmp_path: Path) -> None:
    task = tasks.load(Spec(task="text/e2e", data=str(e2e)))
    assert list(task.train.pairs or ()) == ["name[C]", "name[A], food[B]", "name[A], food[B]"]
    assert task.validation is not None
    assert list(task.validation.texts) == ["A serves B.", "B\nat A.", "C."]
    assert list(task.validation.pairs or ()) == ["name[A], food[B]", "name[A], food[B]", "name[C]"]
    assert task.labels == ()
    grouped = tasks.load(Spec(task="text/e2e", data=str(e2e), unit="meaning_representation")).train
    assert grouped.units is not None
    assert grouped.units.tolist() == [0, 1, 1]
    for other in (e2e, e2e / "validation.parquet"):
        (parts,) = tasks.judged(Spec(task="text/e2e", data=str(e2e)), str(other), task.objective, ()).values()
        assert list(parts.texts) == list(task.validation.texts)


def test_e2e_is_read_as_its_authors_name_it(tmp_path: Path) -> None:
    write(tmp_path / "trainset.csv", [("name[A]", "A, it is."), ("name[B]", "B")], ("mr", "ref"))
    write(tmp_path / "devset.csv", [("name[C]", "C")], ("mr", "ref"))
    task = tasks.load(Spec(task="text/e2e", data=str(tmp_path)))
    assert (list(task.train.texts), list(task.train.pairs or ())) == (["A, it is.", "B"], ["name[A]", "name[B]"])
    assert len(task.judged[""]) == 1


def test_what_is_no_e2e_is_refused(tmp_path: Path) -> None:
    assert "the folder of E2E" in refusal(Spec(task="text/e2e", data=str(tmp_path / "none")))
    assert "train or trainset" in refusal(Spec(task="text/e2e", data=str(tmp_path)))
    write(tmp_path / "train.csv", [("a", SECRET)], ("mr", "reference"))
    assert "columns of E2E" in refusal(Spec(task="text/e2e", data=str(tmp_path)))
    assert "only the task text/files takes --prompt" in refusal(Spec(task="text/e2e", data=str(tmp_path), prompt="mr"))


def test_the_real_e2e_loads_whole(shared_data: Path) -> None:
    """Novikova et al. 2017: 42,061 and 4,672 references."""
    folder = shared_data / "e2e"
    if not folder.is_dir():
        pytest.skip("needs E2E beside the task data")
    task = tasks.load(Spec(task="text/e2e", data=str(folder)))
    assert (len(task.train), len(task.judged[""])) == (42_061, 4_672)
    prompts = list(task.judged[""].pairs or ())
    assert len(set(prompts)) == 547
    assert 1 + sum(a != b for a, b in pairwise(prompts)) == 547  # references stand together
    assert np.unique(task.train.labels).tolist() == [0]
