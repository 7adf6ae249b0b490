"""GLUE tables: what loads, and that a refused one is refused in one line that quotes no cell."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpft import tasks
from dpft.errors import UserError
from dpft.spec import Spec

SECRET = "patient-4711-has-measles"
Folder = Callable[..., Path]


def load(folder: Path, name: str = "sst2") -> tasks.Task:
    return tasks.load(Spec(task=f"glue/{name}", data=str(folder)))


def refusal(folder: Path, name: str = "sst2") -> str:
    with pytest.raises(UserError) as caught:
        load(folder, name)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


def spoil(folder: Path, **columns: Any) -> Path:
    """Rewrite train.parquet with other columns; a value of None drops one. Every text is the secret."""
    table = pd.read_parquet(folder / "train.parquet")
    for name in table.columns.drop("label"):
        table[name] = SECRET
    for name, values in columns.items():
        table = table.drop(columns=name) if values is None else table.assign(**{name: values})
    table.to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize(
    ("name", "paired", "outputs"), [("sst2", False, 2), ("cola", False, 2), ("rte", True, 2), ("mrpc", True, 2),
                                    ("qqp", True, 2), ("stsb", True, 1)]
)  # fmt: skip
def test_a_folder_of_two_parquet_files_is_a_task(glue_folder: Folder, name: str, paired: bool, outputs: int) -> None:
    folder = glue_folder(name, train=20, validation=10)
    task = load(folder, name)
    table = pd.read_parquet(folder / "train.parquet")
    assert (len(task.train), len(task.validation)) == (20, 10)
    assert list(task.train.texts) == table.iloc[:, 0].tolist()
    assert (task.train.pairs is not None) == paired
    if task.train.pairs is not None:
        assert list(task.train.pairs) == table.iloc[:, 1].tolist()
    assert task.train.labels.tolist() == pytest.approx(table["label"].tolist())
    assert task.train.labels.dtype == (np.int64 if task.labels else np.float32)
    assert task.outputs == outputs


def test_mnli_is_judged_on_its_matched_rows_and_beside_them_on_the_mismatched(tmp_path: Path) -> None:
    for split, text in (("train", "a"), ("validation_matched", "b"), ("validation_mismatched", "c")):
        row = {"premise": [text], "hypothesis": ["h"], "label": [2]}
        pd.DataFrame(row).to_parquet(tmp_path / f"{split}.parquet")
    task = load(tmp_path, "mnli")
    assert task.outputs == 3
    assert {part: list(rows.texts) for part, rows in task.judged.items()} == {"": ["b"], "mismatched": ["c"]}


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for shard, text in enumerate("abc"):
        table = pd.DataFrame({"sentence": [text], "label": [1]})
        table.to_parquet(tmp_path / f"train-{shard:05}-of-00003.parquet")
        table.to_parquet(tmp_path / "validation.parquet")
    assert list(load(tmp_path).train.texts) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["int8", "uint8", "bool", "float64", "Int64", "int64[pyarrow]"])
def test_whole_labels_load_from_any_number_type(glue_folder: Folder, kind: str) -> None:
    folder = glue_folder(train=4)
    spoil(folder, label=pd.Series([0, 1, 1, 0]).astype(kind))
    assert load(folder).train.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("kind", ["category", "string", "object", "string[pyarrow]"])
def test_texts_load_from_any_string_type_and_a_missing_one_is_empty(glue_folder: Folder, kind: str) -> None:
    folder = glue_folder(train=3)
    spoil(folder, sentence=pd.Series(["a", None, "b"]).astype(kind))
    assert list(load(folder).train.texts) == ["a", "", "b"]


@pytest.mark.parametrize("value", [1, 1.5, b"x", ["x"], {"a": "x"}, True])
def test_a_text_that_is_none_is_refused_with_its_row(glue_folder: Folder, value: Any) -> None:
    """Catches: what is no text trained on as Python spells it."""
    folder = spoil(glue_folder(train=3), sentence=pd.Series([value] * 3, dtype=object))
    assert "must be texts, got another in the column 'sentence' of row 1" in refusal(folder)


def test_a_text_that_is_no_utf_8_is_refused(glue_folder: Folder) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder = glue_folder(train=2)
    broken = pa.array([b"ok", b"\xff" + SECRET.encode()], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"sentence": broken, "label": pa.array([0, 1])}), folder / "train.parquet")
    assert "UTF-8" in refusal(folder) or "cannot be read" in refusal(folder)


def test_other_rows_are_judged_without_training_rows(glue_folder: Folder) -> None:
    """Catches: training rows wanted, and refused for their faults, where others are to be judged."""
    folder = glue_folder(train=2, validation=3)
    spec, task = Spec(task="glue/sst2", data=str(folder)), load(folder)
    (folder / "train.parquet").unlink()
    found = tasks.judged(spec, str(folder), task.objective, task.labels)
    assert [len(rows) for rows in found.values()] == [3]
    table = pd.read_parquet(folder / "validation.parquet")
    table.iloc[:0].to_parquet(folder / "validation.parquet")
    with pytest.raises(UserError, match="validation data must hold at least one row, got none"):
        tasks.judged(spec, str(folder), task.objective, task.labels)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": None}, "got none named label in train"),
        ({"sentence": None}, "got none named sentence in train"),
        ({"label": [-1] * 4}, "labels must be whole numbers from 0 to 1"),
        ({"label": [0, 1, 2, 1]}, "labels must be whole numbers from 0 to 1"),
        ({"label": [0, 1, np.nan, 1]}, "must have a label, got missing ones"),
        ({"label": [0, 1, None, 1]}, "must have a label, got missing ones"),
        ({"label": [0, 1, 0.5, 1]}, "must be whole numbers, got fractions"),
        ({"label": [0, 1, np.inf, 1]}, "labels"),
        ({"label": [0, 1, 1e300, 1]}, "labels"),
        ({"label": [SECRET] * 4}, "must be numbers"),
        ({"label": ["0", "1", "1", SECRET]}, "must be numbers"),
        ({"label": [SECRET.encode()] * 4}, "must be numbers"),
        ({"label": [[1, 2]] * 4}, "must be numbers"),
        ({"label": [{"a": SECRET}] * 4}, "must be numbers"),
        ({"label": pd.to_datetime(["2020-01-01"] * 4)}, "labels"),
        ({"label": pd.Categorical([SECRET] * 4)}, "must be numbers"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:40],
)
@pytest.mark.filterwarnings("error")
def test_columns_and_labels_that_do_not_fit_are_refused(
    glue_folder: Folder, columns: dict[str, Any], words: str
) -> None:
    """A warning is an error here: NumPy's would be a second line, and may quote a value."""
    assert words in refusal(spoil(glue_folder(train=4), **columns))


def test_scores_of_other_rows_are_checked_like_those_of_training(glue_folder: Folder) -> None:
    folder = glue_folder("stsb", validation=2)
    spec, task = Spec(task="glue/stsb", data=str(folder)), load(folder, "stsb")
    table = pd.read_parquet(folder / "validation.parquet").assign(label=[1.0, np.inf])
    table.to_parquet(folder / "validation.parquet")
    with pytest.raises(UserError, match="validation scores must be finite numbers"):
        tasks.judged(spec, str(folder), task.objective, task.labels)


def test_a_score_beyond_the_tasks_range_is_refused(glue_folder: Folder) -> None:
    assert "must lie from 0 to 5, got another, the first in row 2" in refusal(
        spoil(glue_folder("stsb", train=2), label=[5.0, 77.0]), "stsb"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.filterwarnings("error")
def test_a_score_that_is_no_number_is_refused(glue_folder: Folder, value: float) -> None:
    assert "got missing ones" in refusal(spoil(glue_folder("stsb", train=2), label=[1.0, value]), "stsb")


@pytest.mark.parametrize(("split", "word"), [("train", "training"), ("validation", "validation")])
def test_a_table_without_rows_is_refused(glue_folder: Folder, split: str, word: str) -> None:
    folder = glue_folder(train=2, validation=2)
    file = folder / f"{split}.parquet"
    pd.read_parquet(file).iloc[:0].to_parquet(file)
    assert f"{word} data must hold at least one row, got none" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", SECRET.encode() * 100, b"PAR1" + SECRET.encode() * 9 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(glue_folder: Folder, content: bytes) -> None:
    folder = glue_folder(train=2)
    (folder / "train.parquet").write_bytes(content)
    assert "train.parquet must be a parquet file, got one that cannot be read" in refusal(folder)


def test_a_cut_off_file_is_refused(glue_folder: Folder) -> None:
    folder = spoil(glue_folder(train=50))
    file = folder / "train.parquet"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot be read" in refusal(folder)


def test_shards_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"sentence": [SECRET], "label": [1]}).to_parquet(tmp_path / "train-0.parquet")
    pd.DataFrame({"other": [SECRET], "label": [1]}).to_parquet(tmp_path / "train-1.parquet")
    pd.DataFrame({"sentence": [SECRET], "label": [1]}).to_parquet(tmp_path / "validation.parquet")
    assert "got none named sentence in train" in refusal(tmp_path)


def test_a_folder_that_is_not_there_or_lacks_a_split_is_refused(glue_folder: Folder, tmp_path: Path) -> None:
    assert "which is not there; pass --data DIR" in refusal(tmp_path / "nowhere")
    folder = glue_folder(train=2)
    assert "which is a file; pass --data DIR" in refusal(folder / "train.parquet")
    (folder / "validation.parquet").unlink()
    assert "must hold validation.parquet" in refusal(folder)


def test_an_unreachable_hub_is_one_line_that_names_the_way_without_it() -> None:
    with pytest.raises(UserError, match=r"got no answer from the hub; offline, pass --data DIR") as caught:
        tasks.load(Spec(task="glue/rte"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionError, FileNotFoundError, ValueError, RuntimeError])
def test_the_hubs_retries_and_errors_stay_unseen(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    """Without a network the hub's client warns of ten failures before it gives up; afterwards it may warn again."""
    import datasets
    from huggingface_hub.utils import logging as hub

    def fail(*_: Any, **__: Any) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 2s")
        raise error(f"no such host\n{SECRET}")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    before = hub.get_verbosity()
    with pytest.raises(UserError, match="got no answer from the hub") as caught:
        tasks.load(Spec(task="glue/rte"))
    assert SECRET not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert hub.get_verbosity() == before


@pytest.mark.parametrize(("task", "hint"), [("glue/sst", "glue/sst2"), ("sampel", "sample"), ("x" * 50, "dpft tasks")])
def test_an_unknown_task_is_refused_with_the_nearest_one(task: str, hint: str) -> None:
    with pytest.raises(UserError, match="the task must be one of") as caught:
        tasks.load(Spec(task=task))
    assert hint in str(caught.value).partition("; ")[2]


@pytest.mark.parametrize(
    ("name", "train", "validation", "ones"),
    [("sst2", 67_349, 872, 37_569), ("rte", 2_490, 277, 1_241), ("mrpc", 3_668, 408, 2_474),
     ("cola", 8_551, 1_043, 6_023), ("stsb", 5_749, 1_500, None)],
)  # fmt: skip
def test_real_glue_data_load_whole(shared_data: Path, name: str, train: int, validation: int, ones: int | None) -> None:
    """The counts are those of Wang et al. 2019's release (RTE as on the hub)."""
    task = load(shared_data / "glue" / name, name)
    assert (len(task.train), len(task.validation)) == (train, validation)
    assert all(task.train.texts)
    if ones is not None:
        assert int((task.train.labels == 1).sum()) == ones
    else:
        assert 0 <= task.train.labels.min() < task.train.labels.max() <= 5
