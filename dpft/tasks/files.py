"""The task `files`: the user's own tables, from files, a folder or the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

from dpft import objectives
from dpft.data.examples import Examples
from dpft.data.label_column import LabelColumn
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import Spec, canonical_json
from dpft.tasks._family import TABLE_FLAGS, UNJUDGED, Family, names_note
from dpft.tasks.readers.own_tables import CheckedTable, check_text, sources, validation_source
from dpft.tasks.readers.source import TableSource
from dpft.tasks.task import Task

NAME = "files"
ABOUT = "your own data: --data FILE.csv|.tsv|.jsonl|.parquet, a folder or a hub id, with --text and --label"
STORED_ROWS = 50_000  # from this many rows on, token arrays are cached on disk


def label_columns(spec: Spec) -> tuple[str, ...]:
    """The columns of `--label`: one name is the column of labels; `toxic,insult` are columns of 0 and 1, one each."""
    return tuple(part.strip() for part in (spec.label or "").split(","))


def _objective(spec: Spec, several: bool, column: LabelColumn) -> Objective:
    """The objective as stated by --kind, else found from the label columns."""
    if several:
        return objectives.of_columns()
    return objectives.found_in(column) if spec.kind is None else objectives.of_column(spec.kind)


def _checked(source: TableSource, spec: Spec, unit: str = Spec.unit) -> CheckedTable:
    texts = {column: check_text for column in (spec.text, spec.pair) if column is not None}
    return CheckedTable.of(source, texts, label_columns(spec), unit)


def _rows(table: CheckedTable, spec: Spec, objective: Objective, labels: tuple[str, ...], split: str) -> Examples:
    found, chosen = objective.parse(table.labels, labels, split), table.rows(spec.max_per_unit)
    assert spec.text is not None
    texts = table.texts(spec.text, chosen)
    pairs = None if spec.pair is None else table.texts(spec.pair, chosen)
    digest = None
    if len(texts) >= STORED_ROWS and table.source.digest is not None:
        about = [table.source.digest, spec.text, spec.pair, spec.unit, spec.max_per_unit, split]
        digest = hashlib.sha256(canonical_json(about).encode()).hexdigest()
    if chosen is None or table.units is None:
        return Examples(texts, pairs, found, digest=digest)
    return Examples(texts, pairs, found[chosen], table.units[chosen], digest)


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
        notes.append(names_note(labels))
    if unjudged:
        notes.append(UNJUDGED)
    return tuple(notes), tuple(read_from_training)


class Files(Family):
    """A user's own tables."""

    tasks: ClassVar = {NAME: ABOUT}
    place = 1
    flags = TABLE_FLAGS

    def check(self, spec: Spec) -> None:
        """Raise UserError where flags for columns or data are missing, before anything is read."""
        super().check(spec)
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
        source, judged = sources(spec)
        read = _checked(source, spec, spec.unit)
        flags = label_columns(spec)
        several = len(flags) > 1
        objective, labels = _objective(spec, several, read.labels).named(read.labels, flags if several else spec.labels)
        train = _rows(read, spec, objective, labels, "train")
        validation = None
        if judged is not None:
            validation = _rows(_checked(judged, spec), spec, objective, labels, "validation")
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
        source = sources(spec)[1] if data is None else validation_source(Path(data))
        return {} if source is None else {"": _rows(_checked(source, spec), spec, objective, labels, "validation")}


FAMILY = Files()
