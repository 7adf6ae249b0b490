"""A user's own tables: what is read from every format, by which rules, and what is refused in one line."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpft import tasks
from dpft.errors import UserError
from dpft.objectives.classification import Classification
from dpft.objectives.multilabel import MultiLabel
from dpft.objectives.regression import Regression
from dpft.privacy.ledger.storage.fingerprints import Sketch
from dpft.spec import Spec

SECRET = "patient-4711-has-measles"
ROWS = [
    ("the pump, it leaks", "since\nmonday", "water"),
    ('she said "now"', "", "power"),
    ("", "café", "water"),
]


def write(path: Path, rows: Sequence[Sequence[Any]], columns: Sequence[str] = ("text", "pair", "label")) -> Path:
    """A table in the format that the file's name ends with."""
    table = pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        table.to_csv(path, index=False, encoding="utf-8")
    return path


def spec(data: Path, **more: Any) -> Spec:
    return Spec(task="files", data=str(data), **{"text": "text", "label": "label", **more})


def labelled(path: Path, *labels: Any) -> Path:
    return write(path, [(f"{SECRET} {i}", label) for i, label in enumerate(labels)], ("text", "label"))


def refusal(wanted: Spec) -> str:
    with pytest.raises(UserError) as caught:
        tasks.load(wanted)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert ", got " in line
    return line


@pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows_in_their_order(tmp_path: Path, end: str) -> None:
    task = tasks.load(spec(write(tmp_path / f"own.{end}", ROWS), pair="pair"))
    assert list(task.train.texts) == [text for text, _, _ in ROWS]
    assert task.train.pairs is not None
    assert list(task.train.pairs) == [pair for _, pair, _ in ROWS]
    assert (task.labels, task.train.labels.tolist()) == (("power", "water"), [1, 0, 1])
    assert (task.objective, task.metrics) == (Classification(), ("accuracy", "f1_macro"))
    assert task.train.texts[1:] == [text for text, _, _ in ROWS[1:]]
    assert task.train.texts[-1] == ROWS[-1][0]


def test_a_header_in_the_middle_is_refused_by_its_line(tmp_path: Path) -> None:
    """Catches: two files put behind each other, trained on with a third class named like the column."""
    for end, dress in (("csv", str), ("tsv", str), ("csv", str.upper), ("csv", lambda header: f"\ufeff{header} ")):
        lines = labelled(tmp_path / "one.csv", "a", "b").read_text().replace(",", "," if end == "csv" else "\t")
        header, _, rest = lines.partition("\n")
        (tmp_path / f"both.{end}").write_text(f"{lines}{dress(header)}\n{rest}", encoding="utf-8")
        said = refusal(spec(tmp_path / f"both.{end}"))
        assert said.startswith("the header must stand in the first line alone, got it again in line 4")


def test_quotes_mean_nothing_between_tabs(tmp_path: Path) -> None:
    """As in the original SMS Spam Collection, where a message may open a quotation and never close it."""
    file = tmp_path / "own.tsv"
    file.write_text('text\tlabel\n"now\tspam\nhe said "ok"\tham\n')
    assert list(tasks.load(spec(file)).train.texts) == ['"now', 'he said "ok"']


def test_a_folder_holds_both_splits_and_a_second_file_is_judged_instead(tmp_path: Path) -> None:
    labelled(tmp_path / "train.csv", "a", "b")
    labelled(tmp_path / "validation.jsonl", "b", "b", "a")
    apart = labelled(tmp_path / "apart.parquet", "b")
    assert tasks.load(spec(tmp_path)).judged[""].labels.tolist() == [1, 1, 0]
    assert tasks.load(spec(tmp_path, validation=str(apart))).judged[""].labels.tolist() == [1]


def test_without_a_validation_set_every_row_is_trained_on_and_that_is_said(tmp_path: Path) -> None:
    task = tasks.load(spec(labelled(tmp_path / "own.csv", *"abab")))
    assert (len(task.train), task.judged) == (4, {})
    assert any("none is held out" in note for note in task.notes)


@pytest.mark.parametrize(
    ("labels", "objective", "names", "values"),
    [
        (["b", "a", "b"], Classification(), ("a", "b"), [1, 0, 1]),
        (["10", "9", "9"], Classification(), ("9", "10"), [1, 0, 0]),
        ([1.0, 0.0, 1.0], Classification(), ("0", "1"), [1, 0, 1]),
        ([True, False, True], Classification(), ("false", "true"), [1, 0, 1]),
        (["1", "2.5", "-3"], Regression(), (), [1.0, 2.5, -3.0]),
        ([["a", "c"], [], ["b"]], MultiLabel(), ("a", "b", "c"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (["a|c", "", "b"], MultiLabel(), ("a", "b", "c"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_kind_is_found_by_the_rules_that_are_told(
    tmp_path: Path, labels: list[Any], objective: Any, names: tuple[str, ...], values: list[Any]
) -> None:
    end = "jsonl" if any(not isinstance(label, str) for label in labels) else "csv"
    task = tasks.load(spec(labelled(tmp_path / f"own.{end}", *labels)))
    assert (task.objective, task.labels, task.train.labels.tolist()) == (objective, names, values)
    assert task.train.labels.dtype == (np.int64 if objective == Classification() else np.float32)
    assert task.read_from_training == (("the kind of answer", "the label names") if names else ("the kind of answer",))


def test_what_is_stated_is_not_taken_from_the_data(tmp_path: Path) -> None:
    file = labelled(tmp_path / "own.csv", "b", "a", "b")
    task = tasks.load(spec(file, kind="classification", labels=("b", "never", "a")))
    assert (task.labels, task.train.labels.tolist(), task.read_from_training) == (("b", "never", "a"), [0, 2, 0], ())
    assert tasks.load(spec(labelled(tmp_path / "n.csv", 1, 2, 3), kind="regression")).objective == Regression()
    assert tasks.load(spec(tmp_path / "n.csv", kind="regression", labels=("1", "5"))).objective == Regression(1, 5)


@pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
def test_a_column_for_each_label_is_multi_label(tmp_path: Path, end: str) -> None:
    """Catches: labels by the order of the file's columns, one that nobody has left out, false taken for true."""
    rows = [("one", 1, False, 0), ("two", 0, True, 0), ("three", 1, True, 0)]
    found = tasks.load(spec(write(tmp_path / f"own.{end}", rows, ("text", "b", "a", "c")), label="a, b,c"))
    assert (found.labels, found.objective) == (("a", "b", "c"), MultiLabel())
    np.testing.assert_array_equal(found.train.labels, [[0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert found.read_from_training == (), "nothing is read off the rows"


@pytest.mark.parametrize("value", [2, 0.5, "maybe", None, SECRET])
def test_a_column_for_one_label_says_yes_or_no(tmp_path: Path, value: object) -> None:
    file = write(tmp_path / "own.jsonl", [("one", 1, 0), ("two", 1, value)], ("text", "a", "b"))
    said = refusal(spec(file, label="a,b"))
    assert "must hold 0 or 1, got another in the column 'b' of line 2 of own.jsonl" in said


def test_a_unit_keeps_its_first_rows_however_its_name_is_typed(tmp_path: Path) -> None:
    people = [7, 7.0, "7", " ann", "ann", 7]
    rows = [(f"t{i}", "ab"[i % 2], who) for i, who in enumerate(people)]
    file = write(tmp_path / "own.jsonl", rows, ("text", "label", "who"))
    train = tasks.load(spec(file, unit="who", max_per_unit=2)).train
    assert train.units is not None
    assert train.units.tolist() == [0, 0, 1, 1]
    assert list(train.texts) == ["t0", "t1", "t3", "t4"]
    assert train.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"text,label\nok,a\n{SECRET},b,c\n", "got 3 in line 3"),
        (f"text,label\nok,a\n{SECRET}\n", "got 1 in line 3"),
        (f'text,label\nok,a\n"{SECRET},b\n', "closed quotes"),
        (f'text,label\nok,a\n"{SECRET}"x,b\n', "in line 3"),
        (f"text,label\nok,a\n{SECRET},\n", "a label, got none in line 3"),
        (f"text,label\nok,a\n{SECRET},a\n", "2 to 100 different names, got 1"),
        (f"{SECRET},ham\nok,spam\n", "got none named 'text' among 2"),
        (f"text,text,label\n{SECRET},b,a\n", "two named 'text'"),
        ("", "got none named 'text' among 0"),
        ("text,label\n", "at least one row"),
        ("text,label\nok,a\ncaf\xe9,b\n".encode("latin-1"), "UTF-8, got other bytes in line 3"),
        (f"text,label\n{SECRET},a\nok,b\n".encode("utf-16"), "UTF-8, got other bytes in line 1"),
        (f'text,label\nok,a\n"{SECRET}\nopen,b\nok,a\n', "in the row that begins in line 3"),
        (f'text,label\nok,a\n"{SECRET}\nand more",\n', "a label, got none in line 3"),
        (f'text,label\nok,a\n"{SECRET},b\n' + "ok,a\n" * 30 + 'end",b\n',
         "32 lines like rows in the row that begins in line 3"),
        (f"text,label\n{SECRET},a\0\nok,a\nok,b\n", "no NUL, got one in line 2"),
        (f"text,label\n{SECRET},a\nok,b\n".encode("utf-16-le"), "no NUL, got one in line 1"),
        (f"text,label\nok,a\n{SECRET}\rnow,b\n", "no bare carriage return"),
        (f"text,label\n{SECRET},0.5\nok,1\nok,nan\n", "finite numbers where others are, got another in line 4"),
        (f"text,label\n{SECRET},0.5\nok,1\nok,high\n", "finite numbers where others are, got another in line 4"),
        (f"text,label\n{SECRET},0\nok,1\nok,-inf\n", "finite numbers where others are, got another in line 4"),
        (f"text,label\n{SECRET},0.5\nok,1_0\n", "finite numbers where others are, got another in line 3"),
        ("text,label\n" + "x" * 200_000 + ",a\n",
         "at most 131072 characters, got another in the row that begins in line 2"),
    ],
)  # fmt: skip
def test_a_csv_that_is_broken_is_refused_with_its_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "own.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refusal(spec(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'{{"text": "ok", "label": "a"}}\n{{"text": "{SECRET}"',
         "one JSON object, each key in it once, got another in line 2"),
        (f'{{"text": "ok", "label": "a"}}\n["{SECRET}"]', "got another in line 2"),
        (f'{{"text": "ok", "label": "a"}}\n{{"text": "{SECRET}"}}', "none named 'label' in line 2"),
        (f'{{"text": "ok", "label": "a"}}\n\n{{"text": ["{SECRET}"], "label": "b"}}', "have a text, got none"),
        ('{"text": "ok", "label": "a"}\n{"text": "ok", "label": 1}', "be names, all finite numbers or all lists"),
        ('{"text": "ok", "label": "a"}\n{"text": "ok", "label": ["b"]}', "got another in line 2"),
        ('{"text": "ok", "label": "a"}\n{"text": "ok", "label": {"b": 1}}', "got another in line 2"),
        ('{"text": "ok", "label": 1.5}\n{"text": "ok", "label": NaN}', "a label, got none in line 2"),
        ('{"text": "ok", "label": 1.5}\n{"text": "ok", "label": 1e300}', "finite number, got another in line 2"),
        ("[" * 100_000, "one JSON object, each key in it once, got another in line 1"),
        (f'{{"text": "{SECRET}", "label": "a", "label": "b"}}', "each key in it once, got another in line 1"),
        (f'{{"text": "ok", "label": "a"}}\n{{"text": "{SECRET}", "label": "\\ud800"}}', "surrogate pair in line 2"),
        (f'{{"text": "ok", "label": "a"}}\n{{"text": "{SECRET}\\udfff", "label": "a"}}', "surrogate pair in line 2"),
        ('{"text": "ok", "label": 1}\n{"text": "ok", "label": Infinity}', "finite numbers or all lists"),
        ('{"text": "ok", "label": 1.5}\n{"text": "ok", "label": -Infinity}', "got another in line 2"),
    ],
    ids=range(15),
)  # fmt: skip
def test_lines_that_are_no_rows_are_refused_with_their_number(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(content)
    assert said in refusal(spec(file))


def test_a_pair_of_surrogates_is_one_sign(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "\\ud83d\\ude00", "label": "a"}\n{"text": "ok", "label": "b"}\n')
    assert list(tasks.load(spec(file)).train.texts) == ["😀", "ok"]


def test_a_long_text_of_many_lines_is_no_row_left_open(tmp_path: Path) -> None:
    """Only a cell nearly all of whose lines would be rows of the table is one whose quote was not closed."""
    letter = "\n".join(f"line {i}, and on" if i % 2 else f"line {i}" for i in range(60))
    file = labelled(
        write(tmp_path / "own.csv", [(letter, "a"), ("ok", "b")], ("text", "label")).with_name("x.csv"), *"ab"
    )
    assert list(tasks.load(spec(tmp_path / "own.csv")).train.texts) == [letter, "ok"]
    assert len(tasks.load(spec(file)).train) == 2


def test_parquet_values_that_are_none_of_ours_are_refused_with_their_row(tmp_path: Path) -> None:
    """Catches: an error of the reading library as it comes, which is no line of ours and may quote the row."""
    import pyarrow as pa
    from pyarrow import parquet

    broken = pa.array([b"ok", b"\xff" + SECRET.encode()], pa.binary()).view(pa.string())
    late = pa.array([0, 253402300800000000], pa.int64()).view(pa.timestamp("us"))
    for text, label, said in (
        (broken, pa.array(["a", "b"]), "the column 'text' must hold UTF-8 text, numbers or lists of them, got another"),
        (pa.array(["x", "y"]), broken, "the column 'label' must hold UTF-8 text"),
        (pa.array(["x", "y"]), late, "the column 'label' must hold UTF-8 text"),
    ):
        parquet.write_table(pa.table({"text": text, "label": label}), tmp_path / "own.parquet")
        line = refusal(spec(tmp_path / "own.parquet"))
        assert said in line
        assert "row 2 of own.parquet" in line


def test_decimal_numbers_are_numbers(tmp_path: Path) -> None:
    from decimal import Decimal

    rows = [(f"t{i}", Decimal(value)) for i, value in enumerate(("1.50", "2.00", "-3.25"))]
    task = tasks.load(spec(write(tmp_path / "own.parquet", rows, ("text", "label"))))
    assert (task.objective, task.train.labels.tolist()) == (Regression(), [1.5, 2.0, -3.25])


def test_a_score_beyond_the_stated_range_is_refused_with_its_row(tmp_path: Path) -> None:
    file = labelled(tmp_path / "own.csv", 0, 5, 77)
    assert "from 0 to 5, as was stated, got another in line 4" in refusal(
        spec(file, kind="regression", labels=("0", "5"))
    )
    assert tasks.load(spec(file, kind="regression")).train.labels.tolist() == [0, 5, 77]


def test_an_empty_list_is_no_class(tmp_path: Path) -> None:
    file = labelled(tmp_path / "own.jsonl", ["x"], [], ["y"])
    assert "must have a label, got none in line 2" in refusal(spec(file, kind="classification"))


def test_an_empty_validation_file_is_named(tmp_path: Path) -> None:
    file = labelled(tmp_path / "own.csv", "a", "b")
    (tmp_path / "held.csv").write_text("text,label\n")
    assert "at least one row, got none in held.csv" in refusal(spec(file, validation=str(tmp_path / "held.csv")))


def test_a_label_that_training_did_not_have_is_refused_with_its_row(tmp_path: Path) -> None:
    labelled(tmp_path / "train.csv", "a", "b")
    labelled(tmp_path / "validation.parquet", "a", SECRET)
    assert "labels of validation must be among the 2 known ones, got another in row 2 of" in refusal(spec(tmp_path))
    stated = spec(tmp_path / "train.csv", labels=("a", "c"))
    assert "labels of train must be among the 2 known ones, got another in line 3" in refusal(stated)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"text": None}, "pass --text COLUMN"),
        ({"label": None}, "pass --label COLUMN"),
        ({"label": "text"}, "different columns"),
        ({"pair": "partner"}, "none named 'partner'"),
        ({"unit": "who"}, "none named 'who'"),
        ({"kind": "ranking"}, "kind must be one of classification, multi-label, regression"),
        ({"kind": "regression"}, "a score must be a finite number, got another in line 2"),
        ({"kind": "regression", "labels": ("a", "b")}, "its lowest and highest"),
        ({"kind": "regression", "labels": ("5", "0")}, "its lowest and highest"),
        ({"label": "label,text"}, "different columns"),
        ({"label": "label,other", "kind": "regression"}, "several label columns are multi-label"),
        ({"label": "label,other", "labels": ("a", "b")}, "several label columns are multi-label"),
        ({"label": "label,other"}, "none named 'other'"),
        ({"validation": "nowhere.csv"}, "which is not there"),
        ({"validation": "own.txt"}, "which is not there"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_asked_of_a_file_must_fit_it(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    assert said in refusal(spec(labelled(tmp_path / "own.csv", "a", "b"), **more))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.xlsx").write_bytes(b"PK")
    (tmp_path / "own.parquet").write_text(SECRET)
    assert ".csv, .tsv, .jsonl, .parquet" in refusal(spec(tmp_path / "own.xlsx"))
    assert "cannot be read" in refusal(spec(tmp_path / "own.parquet"))
    assert "a folder must hold train.csv" in refusal(spec(tmp_path))


def test_only_own_files_take_columns() -> None:
    with pytest.raises(UserError, match="only the task files takes --text, got the task glue/sst2"):
        tasks.load(Spec(task="glue/sst2", text="sentence"))


def test_a_file_that_changes_between_two_walks_is_refused(tmp_path: Path) -> None:
    """The texts are read again after the rows were counted: other rows would meet the labels of these."""
    file = labelled(tmp_path / "own.csv", "a", "b")
    task = tasks.load(spec(file))
    file.write_text(file.read_text() + "one more,a\n")
    with pytest.raises(UserError, match="changed; start again"):
        list(task.train.texts)


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    with open(file, "w") as out:
        out.write("text,label\n")
        out.writelines(f"{i} {'x' * 2000},{'ab'[i % 2]}\n" for i in range(8000))
    tracemalloc.start()
    task = tasks.load(spec(file))
    Sketch.of(b"k" * 32, task.train.texts, task.train.pairs)
    streamed = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    whole = list(task.train.texts)  # the injected bug: all texts at once
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(whole) == 8000
    assert streamed < file.stat().st_size / 4 < file.stat().st_size <= held


def test_the_hub_gives_class_names_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    train = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=kinds)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": train})
    monkeypatch.chdir(tmp_path)
    task = tasks.load(spec(Path("someone/notes")))
    assert (task.labels, task.train.labels.tolist(), list(task.train.texts)) == (("no", "yes"), [1, 0, 1], [*"abc"])
    assert task.judged == {}
    assert "none named 'body'" in refusal(spec(Path("someone/notes"), text="body"))


def test_real_messages_load_from_their_original_lines(shared_data: Path, tmp_path: Path) -> None:
    """SMS Spam Collection (Almeida et al. 2011): 4,827 ham and 747 spam; the original has no header."""
    original = shared_data / "sms_spam" / "SMSSpamCollection"
    file = tmp_path / "sms.tsv"
    file.write_bytes(b"label\ttext\n" + original.read_bytes())
    task = tasks.load(spec(file))
    assert (task.labels, np.bincount(task.train.labels).tolist()) == (("ham", "spam"), [4827, 747])
    assert tasks.load(spec(shared_data / "sms_spam", text="sms")).labels == ("0", "1")
