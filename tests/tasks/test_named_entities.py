"""Tasks of named entities: what loads, and that a refused one is refused in one line that quotes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from dpft.cli import main

from dpft import tasks
from dpft.data import bio_tags as tags
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives.tagging import Tagging
from dpft.spec import Spec
from dpft.tasks import named_entities

SECRET = "patient-4711"
Folder = Callable[..., Path]
TRAIN = [(["Anna", "sings"], ["B-who", "O"]), (["in", "Rio", "now"], ["O", "B-where", "O"]), ([], [])]
VALIDATION = [(["Anna"], ["B-who"])]


def column_file(file: Path, rows: list[tuple[list[str], list[str]]], before: str = "") -> Path:
    lines = ["".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows]
    file.write_text(before + "\n".join(lines), encoding="utf-8")
    return file


def table(rows: list[tuple[list[str], list[Any]]], **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"tokens": [r[0] for r in rows], "ner_tags": [r[1] for r in rows], **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sentences in column files."""
    home = tmp_path / "data"
    home.mkdir()
    column_file(home / "train.conll", TRAIN[:2])
    column_file(home / "dev.conll", VALIDATION)
    return home


def load(folder: Path | None, name: str = "files", **fields: Any) -> tasks.Task:
    return tasks.load(Spec(task=f"ner/{name}", data=None if folder is None else str(folder), **fields))


def refusal(folder: Path | None, name: str = "files", **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, name, **fields)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


def words_of(rows: Examples) -> list[list[str]]:
    assert rows.words is not None
    return [[text[a:b] for a, b in rows.words.of_text(n)] for n, text in enumerate(rows.texts)]


def test_column_files_are_a_task_and_its_types_are_read_off_them(folder: Path) -> None:
    task = load(folder)
    assert task.labels == ("O", "B-where", "I-where", "B-who", "I-who")
    assert words_of(task.train) == [["Anna", "sings"], ["in", "Rio", "now"]]
    assert [task.labels[n] for n in task.train.labels] == ["B-who", "O", "O", "B-where", "O"]
    assert task.metrics == ("entity_f1", "entity_precision", "entity_recall")
    assert task.read_from_training == ("the entity types",)
    assert task.objective == Tagging()


def test_stated_types_are_taken_as_they_are(folder: Path) -> None:
    task = load(folder, labels=("who", "where", "what"))
    assert task.labels == tags.names(("who", "where", "what"))
    assert (task.read_from_training, task.notes) == ((), ())
    assert "types who, got another in the sentence at line 4 of train.conll" in refusal(folder, labels=("who",))


@pytest.mark.parametrize("tag", ["O", "B-who", "I-who"])
def test_tags_are_refused_where_types_are_asked_for(folder: Path, tag: str) -> None:
    """Catches: classes B-O and I-O, or B-B-who, without a word."""
    assert f"entity types, without O, B- and I-, got '{tag}'" in refusal(folder, labels=(tag, "where"))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("column", ["ner_tags", "tags", "labels"])
def test_tables_load_like_column_files(tmp_path: Path, suffix: str, column: str) -> None:
    for split, rows in (("train", TRAIN), ("validation", VALIDATION)):
        found = table(rows).rename(columns={"ner_tags": column})
        if suffix == "parquet":
            found.to_parquet(tmp_path / f"{split}.parquet")
        else:
            found.to_json(tmp_path / f"{split}.jsonl", orient="records", lines=True)
    task = load(tmp_path)
    assert words_of(task.train) == [row[0] for row in TRAIN]
    assert [task.labels[n] for n in task.train.labels] == ["B-who", "O", "O", "B-where", "O"]


def test_numbers_are_read_by_the_names_that_the_file_holds(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["O", "I-b", "B-b"])
    features = datasets.Features({"tokens": [datasets.Value("string")], "tags": [names]})
    datasets.disable_progress_bars()
    for split in ("train", "validation"):
        found = datasets.Dataset.from_dict({"tokens": [["x", "y", "z"]], "tags": [[2, 1, 0]]}, features=features)
        found.to_parquet(tmp_path / f"{split}.parquet")
    task = load(tmp_path)
    assert [task.labels[n] for n in task.train.labels] == ["B-b", "I-b", "O"]


def test_a_single_file_trains_without_judging_and_says_so(folder: Path) -> None:
    task = load(folder / "train.conll")
    assert task.validation is None
    assert any("no validation set" in note for note in task.notes)
    judged = load(folder / "train.conll", validation=str(folder / "dev.conll")).judged
    assert words_of(judged[""]) == [["Anna"]]
    spec = Spec(task="ner/files", data=str(folder / "train.conll"))
    other = tasks.judged(spec, str(folder / "dev.conll"), task.objective, task.labels)
    assert words_of(other[""]) == [["Anna"]]
    assert words_of(tasks.judged(spec, str(folder), task.objective, task.labels)[""]) == [["Anna"]]
    assert tasks.judged(spec, None, task.objective, task.labels) == {}


def test_the_unit_is_a_column_of_a_table_or_the_document_of_a_column_file(folder: Path) -> None:
    table(TRAIN, author=["a", "b", "a"]).to_parquet(folder / "train.parquet")
    rows = load(folder, unit="author").train
    assert rows.units is not None
    assert rows.units.tolist() == [0, 1, 0]
    assert rows.unit_count == 2
    few = load(folder, unit="author", max_per_unit=1).train
    assert words_of(few) == [TRAIN[0][0], TRAIN[1][0]]
    (folder / "train.parquet").unlink()
    documents = [f"-DOCSTART- O\n\n{text}" for text in ("a O\n\nb B-who\n\n", "", "c O\n\n")]
    (folder / "train.conll").write_text("".join(documents))
    found = load(folder, unit="document").train.units
    assert found is not None
    assert found.tolist() == [0, 0, 1]


def test_sets_with_known_types_keep_the_order_of_the_hub(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        table([(["x", "y"], [1, 8])]).to_parquet(tmp_path / f"{split}.parquet")
    task = load(tmp_path, "conll2003")
    assert task.labels == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
    column_file(tmp_path / "eng.train", [(["x"], ["I-ORG"])], "-DOCSTART- O\n\n")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.parquet").unlink()
    column_file(tmp_path / "eng.testa", [(["x"], ["I-LOC"])])
    task = load(tmp_path, "conll2003")
    assert [task.labels[n] for n in task.train.labels] == ["B-ORG"]  # the original marks the start of an entity by I-


def test_real_wnut17_loads_whole(shared_data: Path) -> None:
    task = load(shared_data / "wnut17", "wnut17")
    assert (len(task.train), len(task.validation or ())) == (3394, 1009)
    assert (len(task.train.labels), len(task.labels)) == (62_730, 13)
    assert int((task.train.labels % 2 == 1).sum()) == 1975


BAD_TABLES: list[tuple[list[tuple[Any, Any]], str]] = [
    ([(["a"], ["O", "O"])], "as many tags as tokens, got 2 for 1 in row 1 of train.parquet"),
    ([(["a"], ["O"]), (["a", SECRET], ["O"])], "got 1 for 2 in row 2"),
    ([(["a"], [SECRET])], "must be O, B-TYPE or I-TYPE, got another in row 1"),
    ([(["a"], [1])], "numbers that the file names, got others in row 1"),
    ([(SECRET, SECRET)], "must be lists, tokens of texts, none blank, got others in row 1"),
    ([([1], ["O"])], "must be lists, tokens of texts, none blank, got others in row 1"),
    ([(None, ["O"])], "must be lists, tokens of texts, none blank, got others in row 1"),
    ([(["a"], ["O"]), ([" "], ["O"])], "none blank, got others in row 2"),
    ([([""], ["O"])], "none blank, got others in row 1"),
    ([([], []), ([], [])], "at least one row with a token, got none"),
    ([([SECRET], ["O"])], "training data must hold an entity"),
]


@pytest.mark.parametrize(("rows", "words"), BAD_TABLES)
def test_rows_that_do_not_fit_are_named_by_number(folder: Path, rows: Any, words: str) -> None:
    table(rows).to_parquet(folder / "train.parquet")
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"tokens": ["a"], "tags": ["B-x"]}\nnull\n', "got another in line 2 of train.jsonl"),
        (b'{"tokens": ["a"], "tags": ["B-x"]}\n["patient-4711"]\n', "got another in line 2 of train.jsonl"),
        (b'{"tokens": ["caf\xe9"], "tags": ["B-x"]}\n', "UTF-8, got other bytes in line 1 of train.jsonl"),
        (b'{"tokens": ["a"], "tags": ["B-x"]}\n{"tokens": ["\\ud800"], "tags": ["O"]}\n', "surrogate pair in line 2"),
        (b'{"tokens": ["a"], "tags": ["B-x"]}\n{"tokens": ["patient-4711"]}\n', "none named 'tags' in line 2"),
    ],
)
def test_json_lines_are_refused_by_their_number(folder: Path, content: bytes, words: str) -> None:
    """Catches: a file refused as a whole, or an error of the reading library, where one line is at fault."""
    (folder / "train.jsonl").write_bytes(content)
    (folder / "train.conll").unlink()
    assert words in refusal(folder)


def test_json_lines_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(b'\xef\xbb\xbf{"tokens": ["a"], "tags": ["B-who"]}\n')
    (folder / "train.conll").unlink()
    assert words_of(load(folder).train) == [["a"]]


@pytest.mark.parametrize("about", [b"[]", b"{", b'{"info": null}', b'{"info": {"features": {"tags": {"feature": 1}}}}'])
def test_metadata_that_name_no_tags_are_passed_over(folder: Path, about: bytes) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    made = pa.table({"tokens": [["a"]], "tags": [["B-who"]]}).replace_schema_metadata({b"huggingface": about})
    parquet.write_table(made, folder / "train.parquet")
    (folder / "train.conll").unlink()
    assert words_of(load(folder).train) == [["a"]]


def test_tokens_that_are_no_utf_8_are_refused_with_their_row(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    word = pa.array([b"ok", b"\xff" + SECRET.encode()], pa.binary()).view(pa.string())
    made = pa.table({"tokens": pa.ListArray.from_arrays([0, 1, 2], word), "tags": [["O"], ["O"]]})
    parquet.write_table(made, folder / "train.parquet")
    assert "must hold UTF-8 text, numbers or lists of them, got another in row 2 of train.parquet" in refusal(folder)


@pytest.mark.parametrize("owner", [None, " ", float("inf"), ["a"]])
def test_a_sentence_without_an_owner_is_refused_with_its_row(folder: Path, owner: object) -> None:
    rows = [{"tokens": ["a"], "tags": ["B-who"], "who": who} for who in ("u", owner)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "train.conll").unlink()
    assert "each row must name its 'who', got no name or number in line 2 of train.jsonl" in refusal(folder, unit="who")


def test_a_run_is_not_judged_by_a_file_without_a_sentence(folder: Path) -> None:
    """Catches: figures of 0 for rows that are not there."""
    task, empty = load(folder), folder / "empty.conll"
    empty.write_text("\n\n")
    spec = Spec(task="ner/files", data=str(folder))
    with pytest.raises(UserError, match="validation data must hold at least one row, got none"):
        tasks.judged(spec, str(empty), task.objective, task.labels)
    with pytest.raises(UserError, match="--data must name what is there"):
        tasks.judged(spec, str(folder / "nowhere.conll"), task.objective, task.labels)


def test_types_that_training_lacks_are_refused(folder: Path) -> None:
    column_file(folder / "dev.conll", [(["a"], ["O"]), (["b"], [f"B-{SECRET}"])])
    assert (
        "entities of validation must be of the types where, who, got another in the sentence at line 3 of"
        in refusal(folder)
    )


@pytest.mark.parametrize("tag", [13, -1])
def test_numbers_beyond_the_names_are_refused(tmp_path: Path, tag: int) -> None:
    table([([SECRET], [tag])]).to_parquet(tmp_path / "train.parquet")
    assert "must be numbers from 0 to 12, got another in row 1" in refusal(tmp_path, "wnut17")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_without_a_sentence_is_refused(folder: Path, split: str) -> None:
    (folder / f"{split}.conll").write_text(" \n\t\n")
    line = refusal(folder, labels=("who", "where"))
    assert f"{'training' if split == 'train' else 'validation'} data must hold at least one row" in line


def test_files_that_are_not_there_or_cannot_be_read_are_refused(folder: Path) -> None:
    assert "which is not; pass another" in refusal(folder / "nowhere")
    assert "got no --data" in refusal(None)
    (folder / "train.conll").rename(folder / "other.conll")
    assert "must hold a file named train" in refusal(folder)
    assert "must hold a file named validation" in refusal_of_wnut(folder)
    (folder / "train.parquet").write_bytes(SECRET.encode())
    assert "train.parquet must be a parquet file, got one that cannot be read" in refusal(folder)
    (folder / "train.parquet").unlink()
    (folder / "train.jsonl").write_text(SECRET)
    assert "each line must be one JSON object, each key in it once, got another in line 1 of" in refusal(folder)
    (folder / "train.jsonl").write_text(json.dumps({"text": SECRET}))
    assert "train.jsonl must have a column tokens or words, got none" in refusal(folder)


def refusal_of_wnut(folder: Path) -> str:
    column_file(folder / "train.conll", [(["a"], ["B-person"])])
    (folder / "dev.conll").rename(folder / "x.conll")
    line = refusal(folder, "wnut17")
    (folder / "train.conll").unlink()
    return line


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"unit": "author"}, "unit of a column file must be document"),
        ({"unit": "document"}, "in files with -DOCSTART- lines, got 'document'"),
        ({"text": "x"}, "only the task files takes --text"),
        ({"kind": "regression"}, "only the task files takes --kind"),
    ],
)
def test_flags_that_do_not_fit_are_refused(folder: Path, fields: dict[str, str], words: str) -> None:
    assert words in refusal(folder, **fields)
    assert "only the task files takes --labels" in refusal(folder, "wnut17", labels=("a",))


def test_the_hub_is_asked_for_parquet_and_no_script(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(*words: Any, **named: Any) -> Any:
        asked.append((*words, named["split"], named["revision"]))
        assert "trust_remote_code" not in named
        return datasets.Dataset.from_dict({"tokens": [["x"]], "ner_tags": [[1]]})

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    assert load(None, "conll2003").train.labels.tolist() == [1]
    assert asked == [
        ("eriktks/conll2003", "conll2003", split, "refs/convert/parquet") for split in ("train", "validation")
    ]


def test_a_data_set_of_the_hub_is_read_by_the_names_of_its_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    names = datasets.ClassLabel(names=["O", "I-b", "B-b"])
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": [names]})
    one = datasets.Dataset.from_dict({"tokens": [["x", "y"]], "ner_tags": [[2, 0]]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": one})
    task = tasks.load(Spec(task="ner/files", data="owner/name"))
    assert [task.labels[n] for n in task.train.labels] == ["B-b", "O"]
    assert task.validation is None


def test_an_unreachable_hub_is_one_line_that_names_the_way_without_it() -> None:
    assert "got no answer from the hub; offline, pass --data DIR" in refusal(None, "wnut17")


@pytest.mark.parametrize("representation", ["mask", "cls"])
def test_words_are_read_at_their_own_tokens_alone(representation: Any) -> None:
    with pytest.raises(UserError, match="the head reads every token where words are labelled"):
        tasks.settled(Spec(task="ner/wnut17", representation=representation))
    assert tasks.settled(Spec(task="ner/wnut17")).representation == "token"
    with pytest.raises(UserError, match="representation token goes with tasks that label words"):
        tasks.settled(Spec(task="glue/sst2", representation="token"))


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (f"{SECRET}\n", (), "got one without in line 1"),
        (f"a\tB-{SECRET}\nb\n", (), "got one without in line 2"),
        (f"{SECRET}\tX\n", (), "got another in line 1"),
        (f"{SECRET}\tB-who\n".encode() + b"\xe9\tO\n", (), "got other bytes in line 2"),
        ("a\tB-who\n" * 9, ("--canaries", "8"), "canaries need a task with one label a row"),
        ("a\tB-who\n" * 9, ("--representation", "cls"), "the head reads every token"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2_and_writes_no_ledger(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    content: Any,
    more: Any,
    words: str,
) -> None:
    (tmp_path / "train.conll").write_bytes(content if isinstance(content, bytes) else content.encode())
    column_file(tmp_path / "validation.conll", VALIDATION)
    asked = ["train", "--task", "ner/files", "--data", str(tmp_path), "--epsilon", "8", "--delta", "1e-4", *more]
    monkeypatch.setattr(sys, "argv", ["dpft", *asked, "--runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capfd.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert SECRET not in err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "ledger.sqlite").exists()


def test_every_named_set_is_listed() -> None:
    assert set(named_entities.NAMES) <= set(tasks.names())
    assert np.all([name.startswith("ner/") for name in named_entities.NAMES])
