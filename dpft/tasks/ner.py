"""Named entities: a tag for each word (CoNLL-2003, WNUT-17, one's own), from the hub or local files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.answers import Tags
from dpft.spec import Spec, UserError
from dpft.tasks import tags
from dpft.tasks._task import Rows, Task
from dpft.tasks.sentences import Sentences, names_of, of_columns, of_table
from dpft.tasks.units import kept
from dpft.tasks.words import joined

TAGS = Tags()
# Where the hub keeps its conversions of data sets whose own form is a script: no script is run.
PARQUET = "refs/convert/parquet"
# What files of a split are called: ours, and as CoNLL-2003 and WNUT-17 are handed out.
_STEMS = {
    "train": ("train", "eng.train", "wnut17train"),
    "validation": ("validation", "valid", "dev", "eng.testa", "emerging.dev"),
}
_COLUMNS = (".conll", ".txt", ".bio", ".iob", ".iob2", ".tsv", "")
_SUFFIXES = (".parquet", ".jsonl", *_COLUMNS)


@dataclass(frozen=True)
class Config:
    """Entity types in the order of the hub's tags, and the hub's names of one set and its configuration."""

    types: tuple[str, ...]
    hub: str
    name: str


CONFIGS = {
    "conll2003": Config(("PER", "ORG", "LOC", "MISC"), "eriktks/conll2003", "conll2003"),
    "wnut17": Config(
        ("corporation", "creative-work", "group", "location", "person", "product"), "leondz/wnut_17", "wnut_17"
    ),
}
FILES = "ner/files"
NAMES = {
    "ner/conll2003": "named entities in news, metric entity F1",
    "ner/wnut17": "novel entities in messages, metric entity F1",
    FILES: "your own: --data DIR, a token a line with its BIO tag, or columns of tokens and tags; metric entity F1",
}


def load(spec: Spec) -> Task:
    """The task `ner/NAME`. Raises UserError on missing files, and on what is no sentence with a tag for each token."""
    config = CONFIGS.get(spec.task.removeprefix("ner/"))
    train, validation = (_sentences(spec, config, split) for split in ("train", "validation"))
    types = list(config.types) if config else tags.types_in(train.tags)
    if not types:
        raise UserError("training data must hold an entity, got tags of O alone; check --data")
    for split, found in (("train", train), ("validation", validation)):
        _check_types(found, types, split, config is None)
    labels = tags.names(types)
    metric, *further = TAGS.metrics
    rows = _rows(_limited(train, spec), labels), _rows(validation, labels)
    return Task(spec.task, *rows, labels, metric, TAGS, tuple(further))


def _sentences(spec: Spec, config: Config | None, split: str) -> Sentences:
    unit = spec.unit if split == "train" and spec.unit != Spec.unit else None
    named = tags.names(config.types) if config else ()
    if spec.data is not None:
        return _local(Path(spec.data), split, named, unit)
    if config is None:
        raise UserError(f"the task {FILES} reads local files, got no --data; pass --data DIR")
    return of_table(_from_hub(config, spec.task, split), named, unit, split)


def _from_hub(config: Config, task: str, split: str) -> Any:
    """A split as a pandas table, in the hub's own conversion to parquet."""
    import datasets
    from huggingface_hub.utils import logging as hub

    level = hub.get_verbosity()
    hub.set_verbosity(logging.CRITICAL)  # it tells of every retry on stderr
    try:
        return datasets.load_dataset(config.hub, config.name, split=split, revision=PARQUET).to_pandas()
    except (OSError, ValueError, RuntimeError):
        raise UserError(
            f"{task} must come from the hub or a folder, got no answer from the hub; "
            "offline, pass --data DIR with train.conll and validation.conll, or both as parquet"
        ) from None
    finally:
        hub.set_verbosity(level)


def _local(folder: Path, split: str, named: tuple[str, ...], unit: str | None) -> Sentences:
    if not folder.is_dir():
        raise UserError(f"--data must be a folder, got {str(folder)!r}, which is none; pass --data DIR")
    files = [file for stem in _STEMS[split] for suffix in _SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()]
    if not files:
        raise UserError(
            f"--data must hold a file named {split} ({split}.conll, {split}.parquet, {split}.jsonl), "
            f"got {str(folder)!r} without; name it so"
        )
    file = files[0]
    if file.suffix == ".parquet" or file.suffix == ".jsonl":
        table, own = _table(file)
        return of_table(table, own or named, unit, split)
    return of_columns(file, unit)


def _table(file: Path) -> tuple[Any, tuple[str, ...]]:
    """A table, and the names of its tags where it holds them."""
    import pandas as pd

    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file), names_of(file)
        return pd.read_json(file, lines=True, convert_dates=False), ()
    except (OSError, ValueError):
        raise UserError(
            f"{file.name} must be a {file.suffix[1:]} file, got one that cannot be read; write it again"
        ) from None


def _rows(found: Sentences, labels: tuple[str, ...]) -> Rows:
    texts, words = joined(found.tokens)
    return Rows(texts, None, tags.numbered(found.tags, labels), found.units, words=words)


def _limited(train: Sentences, spec: Spec) -> Sentences:
    """At most `spec.max_per_unit` sentences of each unit."""
    if train.units is None or spec.max_per_unit is None:
        return train
    return train.some(kept(train.units, spec.max_per_unit))


def _check_types(found: Sentences, types: list[str], split: str, own: bool) -> None:
    known = {"", *types}
    rule = "entities of validation must be of a type that train has" if own else f"types must be {', '.join(types)}"
    for number, marks in enumerate(found.tags, 1):
        if not {tags.type_of(mark) for mark in marks} <= known:
            raise UserError(f"{rule}, got another in sentence {number} of {split}; mend the data")
