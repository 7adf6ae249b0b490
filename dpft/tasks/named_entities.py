"""Named entities: a tag for each word (CoNLL-2003, WNUT-17, one's own), from the hub or local files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from dpft.data import bio_tags
from dpft.data.examples import Examples
from dpft.data.units import kept
from dpft.data.words import join_words
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.objectives.tagging import Tagging
from dpft.spec import Spec
from dpft.tasks._family import Family
from dpft.tasks.readers import hub
from dpft.tasks.readers.tables import of_file
from dpft.tasks.readers.token_tables import TAGS, Sentences, names_of, read_conll, read_table
from dpft.tasks.task import Task

OBJECTIVE = Tagging()
# Where the hub keeps its conversions of data sets whose own form is a script: no script is run.
PARQUET = "refs/convert/parquet"
# What files of a split are called: ours, and as CoNLL-2003 and WNUT-17 are handed out.
_STEMS = {
    "train": ("train", "eng.train", "wnut17train"),
    "validation": ("validation", "valid", "dev", "eng.testa", "emerging.dev"),
}
_SUFFIXES = (".parquet", ".jsonl", ".conll", ".txt", ".bio", ".iob", ".iob2", ".tsv", "")


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
    FILES: "your own: --data FILE or DIR, a token a line with its BIO tag, or columns of tokens and tags; entity F1",
}


def _sentences(spec: Spec, config: Config | None, split: str) -> Sentences | None:
    """A split; None for validation where one's own data have none."""
    unit = spec.unit if split == "train" and spec.unit != Spec.unit else None
    named = bio_tags.names(config.types) if config else ()
    if split == "validation" and spec.validation is not None:
        return _read(_file(Path(spec.validation), "--validation"), named, unit)
    if spec.data is None:
        if config is None:
            raise UserError(f"the task {FILES} reads one's own data, got no --data; pass --data FILE, DIR or HUB_ID")
        return read_table(_from_hub(config, spec.task, split), named, unit)
    if config is None and hub.is_id(spec.data):
        return _own_of_hub(spec.data, split, unit)
    return _local(Path(spec.data), split, named, unit, config is None)


def _local(path: Path, split: str, named: tuple[str, ...], unit: str | None, own: bool) -> Sentences | None:
    if not path.is_dir():
        return _read(_file(path, "--data"), named, unit) if split == "train" else None
    files = [file for stem in _STEMS[split] for suffix in _SUFFIXES if (file := path / f"{stem}{suffix}").is_file()]
    if files:
        return _read(files[0], named, unit)
    if own and split == "validation":
        return None
    raise UserError(
        f"--data must hold a file named {split} ({split}.conll, {split}.parquet, {split}.jsonl), "
        f"got {str(path)!r} without; name it so"
    )


def _file(path: Path, flag: str) -> Path:
    if not path.is_file():
        raise UserError(f"{flag} must name what is there, got {str(path)!r}, which is not; pass another")
    return path


def _read(file: Path, named: tuple[str, ...], unit: str | None) -> Sentences:
    """A file's sentences, by the end of its name."""
    kind = file.suffix.lower()
    if kind not in (".parquet", ".jsonl"):
        return read_conll(file, unit)
    return read_table(of_file(file), (kind == ".parquet" and names_of(file)) or named, unit)


def _own_of_hub(name: str, split: str, unit: str | None) -> Sentences | None:
    """A split of a user's data set on the hub; None where it has none to judge by."""
    found = hub.split(name, split) if split == "train" else hub.validation(name)
    if found is None:
        return None
    column = next((column for column in TAGS if column in found.table.column_names), "")
    each = getattr(found.table.features.get(column), "feature", None)
    return read_table(found, tuple(getattr(each, "names", None) or ()), unit)


def _from_hub(config: Config, task: str, split: str) -> hub.HubSplit:
    """A split, in the hub's own conversion to parquet."""
    import datasets
    from huggingface_hub.utils import logging as client

    level = client.get_verbosity()
    client.set_verbosity(logging.CRITICAL)  # it tells of every retry on stderr
    try:
        table = datasets.load_dataset(config.hub, config.name, split=split, revision=PARQUET)
    except (OSError, ValueError, RuntimeError):
        raise UserError(
            f"{task} must come from the hub or a folder, got no answer from the hub; "
            "offline, pass --data DIR with train.conll and validation.conll, or both as parquet"
        ) from None
    finally:
        client.set_verbosity(level)
    return hub.HubSplit(config.hub, split, table)


def _types(stated: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Entity types as they were stated. Raises UserError for tags: their types are asked for."""
    for name in stated or ():
        if bio_tags.is_tag(name):
            raise UserError(
                f"labels of words are entity types, without O, B- and I-, got {name!r}; pass --labels PER,LOC"
            )
    return stated


def _rows(found: Sentences, labels: tuple[str, ...], split: str) -> Examples:
    _check_types(found, set(labels), split)
    texts, words = join_words(found.tokens)
    return Examples(texts, None, bio_tags.numbered(found.tags, labels), found.units, words=words)


def _limited(train: Sentences, spec: Spec) -> Sentences:
    """At most `spec.max_per_unit` sentences of each unit."""
    if train.units is None or spec.max_per_unit is None:
        return train
    return train.some(kept(train.units, spec.max_per_unit))


def _check_types(found: Sentences, labels: set[str], split: str) -> None:
    """The message names the types, which are public, and never the one that was found."""
    for number, marks in zip(found.numbers, found.tags, strict=True):
        if not set(bio_tags.begun(marks)) <= labels:
            types = ", ".join(sorted({bio_tags.type_of(label) for label in labels} - {""}))
            raise UserError(
                f"entities of {split} must be of the types {types}, got another in the sentence at "
                f"{found.where(number)}; correct the data, or state all types with --labels"
            )


class NamedEntities(Family):
    """A tag for each word."""

    tasks: ClassVar = NAMES
    place = 3

    def flags_of(self, task: str) -> tuple[str, ...]:
        return ("validation", "labels") if task == FILES else ("validation",)

    def objective(self, spec: Spec) -> Objective:
        return OBJECTIVE

    def load(self, spec: Spec) -> Task:
        """The task `ner/NAME`. Raises UserError on missing files, and on tokens that have no tag each."""
        config = CONFIGS.get(spec.task.removeprefix("ner/"))
        train, validation = _sentences(spec, config, "train"), _sentences(spec, config, "validation")
        assert train is not None
        stated = config.types if config else _types(spec.labels)
        types = stated or bio_tags.types_in(train.tags)
        if not any(train.tokens):
            raise UserError("training data must hold at least one row with a token, got none; check --data")
        if not types:
            raise UserError("training data must hold an entity, got tags of O alone; check --data")
        labels = bio_tags.names(types)
        notes, read_from_training = [], []
        if stated is None:
            read_from_training.append("the entity types")
            notes.append(f"took {len(types)} entity types from the data: they are not private (--labels states them)")
        if validation is None:
            notes.append(
                "no validation set: all sentences are trained on, none is held out; evaluate with dpft evaluate RUN "
                "--data FILE"
            )
        evaluated = None if validation is None else _rows(validation, labels, "validation")
        metric, *further = (one.name for one in OBJECTIVE.metrics)
        return Task(
            spec.task, _rows(_limited(train, spec), labels, "train"), evaluated, labels, metric, OBJECTIVE,
            tuple(further), notes=tuple(notes), read_from_training=tuple(read_from_training),
        )  # fmt: skip

    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        """The validation rows of a run, or those of `data`, a file or a folder, with the run's tags."""
        other = spec
        if data is not None:
            file = None if Path(data).is_dir() else str(_file(Path(data), "--data"))
            other = replace(spec, data=data, validation=file)
        found = _sentences(other, CONFIGS.get(spec.task.removeprefix("ner/")), "validation")
        return {} if found is None else {"": _rows(found, labels, "validation")}


FAMILY = NamedEntities()
