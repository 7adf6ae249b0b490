"""The task `files`: the user's own tables, from files, a folder or the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from dpft import objectives
from dpft.data.examples import Examples
from dpft.data.label_column import LabelColumn, ticked
from dpft.data.units import kept, name_of
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import Spec, canonical_json
from dpft.tasks._family import FLAGS, Family
from dpft.tasks.readers import hub
from dpft.tasks.readers.source import TableSource
from dpft.tasks.readers.tables import FORMATS, in_folder, of_file
from dpft.tasks.task import Task

NAME = "files"
ABOUT = "your own data: --data FILE.csv|.tsv|.jsonl|.parquet, a folder or a hub id, with --text and --label"
STORED_ROWS = 50_000  # from this many rows on, token arrays are cached on disk


@dataclass(frozen=True)
class TextColumn(Sequence[str]):
    """A column of texts that is read from disk at each iteration. kept: the rows to yield, None for all."""

    source: TableSource
    column: str
    total: int
    kept: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[str]:
        found = (text for _, (text,) in self.source.rows((self.column,)))
        yielded = 0
        for text in found if self.kept is None else _chosen(found, self.kept):
            yielded += 1
            yield text
        if yielded != self.total:
            raise UserError(f"data must not change while they are read, got {yielded} rows; start again")

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        places = range(self.total)[at]
        if isinstance(places, int):
            return next(islice(iter(self), places, None))
        ahead = list(islice(iter(self), max(places, default=-1) + 1))
        return [ahead[place] for place in places]


def _chosen(texts: Iterable[str], kept: NDArray[np.int64]) -> Iterator[str]:
    wanted = iter(kept.tolist())
    following = next(wanted, None)
    for number, text in enumerate(texts):
        if number == following:
            yield text
            following = next(wanted, None)


def label_columns(spec: Spec) -> tuple[str, ...]:
    """The columns of `--label`: one name is the column of labels; `toxic,insult` are columns of 0 and 1, one each."""
    return tuple(part.strip() for part in (spec.label or "").split(","))


def _objective(spec: Spec, several: bool, column: LabelColumn) -> Objective:
    """The objective as stated by --kind, else found from the label columns."""
    if several:
        return objectives.of_columns()
    return objectives.found_in(column) if spec.kind is None else objectives.of_column(spec.kind)


def _other(path: Path) -> TableSource:
    if not path.is_dir():
        return of_file(path)
    found = in_folder(path, "validation")
    if found is None:
        raise UserError(f"--data must hold a file named validation, got {str(path)!r} without; pass --data FILE")
    return found


def _sources(spec: Spec) -> tuple[TableSource, TableSource | None]:
    assert spec.data is not None
    path, apart = Path(spec.data), None if spec.validation is None else of_file(Path(spec.validation))
    if path.is_dir():
        train, beside = in_folder(path, "train"), in_folder(path, "validation")
        if train is None:
            raise UserError(
                f"a folder must hold train{', train'.join(FORMATS)}, got {spec.data!r} without; pass --data FILE"
            )
        return train, apart or beside
    if hub.is_id(spec.data):
        return hub.split(spec.data, "train"), apart or hub.validation(spec.data)
    return of_file(path), apart


@dataclass(frozen=True)
class _Read:
    """The result of one pass through a table: its labels and the unit of each row. Texts are checked on the way."""

    source: TableSource
    labels: LabelColumn
    units: NDArray[np.int64] | None

    @classmethod
    def of(cls, source: TableSource, spec: Spec, unit: str = Spec.unit) -> _Read:
        texts = [column for column in (spec.text, spec.pair) if column is not None]
        flags = label_columns(spec)
        named = unit != Spec.unit
        labels, numbers = LabelColumn(source.where), []
        known: dict[str, int] = {}
        for number, cells in source.rows([*texts, *flags, *([unit] if named else [])]):
            for column, text in zip(texts, cells, strict=False):
                if not isinstance(text, str):
                    raise UserError(
                        f"each row must have a text, got none in the column {column!r} of {source.where(number)}; "
                        "fill it in or drop the row"
                    )
            said = cells[len(texts) : len(texts) + len(flags)]
            labels.add(number, said[0] if len(flags) == 1 else ticked(flags, said, source.where(number)))
            if named:
                numbers.append(known.setdefault(name_of(cells[-1], unit, source.where(number)), len(known)))
        if not labels.rows:
            raise UserError(f"data must hold at least one row, got none in {source.name}; pass another file")
        return cls(source, labels, np.array(numbers, np.int64) if named else None)

    def rows(self, spec: Spec, objective: Objective, labels: tuple[str, ...], split: str) -> Examples:
        found = objective.parse(self.labels, labels, split)
        chosen = None if self.units is None else kept(self.units, spec.max_per_unit or 1)
        count = len(found) if chosen is None else len(chosen)
        texts, pairs = (
            None if column is None else TextColumn(self.source, column, count, chosen)
            for column in (spec.text, spec.pair)
        )
        assert texts is not None
        digest = None
        if count >= STORED_ROWS and self.source.digest is not None:
            about = [self.source.digest, spec.text, spec.pair, spec.unit, spec.max_per_unit, split]
            digest = hashlib.sha256(canonical_json(about).encode()).hexdigest()
        if chosen is None or self.units is None:
            return Examples(texts, pairs, found, digest=digest)
        return Examples(texts, pairs, found[chosen], self.units[chosen], digest)


def _read_notes(
    spec: Spec, objective: Objective, labels: tuple[str, ...], unjudged: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(notes for the user on how the data were read, facts that were read from training data)."""
    notes, read_from_training = [], []
    several = len(label_columns(spec)) > 1  # several columns state both the kind and the names
    if spec.kind is None and not several:
        read_from_training.append("the kind of answer")
        notes.append(f"found {objective.kind} in the label column ({objectives.rules()}; --kind states it)")
    notes += objective.notes
    if labels and spec.labels is None and not several:
        read_from_training.append("the label names")
        notes.append(
            f"read {len(labels)} label names from the data: they are not private (--labels states them beforehand)"
        )
    if unjudged:
        notes.append(
            "no validation set: all rows are trained on, none is held out; evaluate with dpft evaluate RUN --data FILE"
        )
    return tuple(notes), tuple(read_from_training)


class Files(Family):
    """A user's own tables."""

    tasks: ClassVar = {NAME: ABOUT}
    place = 1
    flags = FLAGS

    def check(self, spec: Spec) -> None:
        """Raise UserError where flags for columns or data are missing, before anything is read."""
        for flag, value in (("data PATH", spec.data), ("text COLUMN", spec.text), ("label COLUMN", spec.label)):
            if value is None:
                raise UserError(
                    f"the task files needs --data, --text and --label, got no --{flag.split()[0]}; pass --{flag}"
                )
        flags = label_columns(spec)
        named = [column for column in (spec.text, spec.pair, *flags) if column is not None]
        if len(set(named)) != len(named):
            raise UserError(
                "text, pair and label must be different columns, got one twice; pass --text, --pair, --label"
            )
        if spec.kind is not None:
            objectives.of_column(spec.kind)
        several = objectives.of_columns().kind
        if len(flags) > 1 and (spec.kind not in (None, several) or spec.labels is not None):
            raise UserError(
                f"several label columns are {several} and name their labels, got --kind or --labels too; drop them"
            )
        if spec.labels is not None and len(spec.labels) < 2:
            raise UserError(f"labels must be at least two, got {len(spec.labels)}; pass --labels a,b")

    def load(self, spec: Spec) -> Task:
        """The task of the user's files. Raises UserError with the number of the first invalid row."""
        source, judged = _sources(spec)
        read = _Read.of(source, spec, spec.unit)
        flags = label_columns(spec)
        several = len(flags) > 1
        objective, labels = _objective(spec, several, read.labels).named(read.labels, flags if several else spec.labels)
        train = read.rows(spec, objective, labels, "train")
        validation = None
        if judged is not None:
            validation = _Read.of(judged, spec).rows(spec, objective, labels, "validation")
        notes, read_from_training = _read_notes(spec, objective, labels, validation is None)
        metric, *further = (one.name for one in objective.metrics)
        return Task(
            NAME,
            train,
            validation,
            labels,
            metric,
            objective,
            tuple(further),
            notes=notes,
            read_from_training=read_from_training,
        )

    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        """The validation rows of a run, or those of `data`, with the run's columns, kind and labels."""
        source = _sources(spec)[1] if data is None else _other(Path(data))
        return {} if source is None else {"": _Read.of(source, spec).rows(spec, objective, labels, "validation")}


FAMILY = Files()
