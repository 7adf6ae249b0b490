"""Tasks of texts to write: the user's own tables, and E2E (Novikova et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dpft import objectives
from dpft.data.documents import CodedPrompts, Documents, messages_of
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.spec import Spec, canonical_json
from dpft.tasks._family import UNJUDGED, Family, names_note
from dpft.tasks.readers.own_tables import Check, CheckedTable, check_text, sources, validation_source
from dpft.tasks.readers.source import TableSource
from dpft.tasks.readers.tables import in_folder
from dpft.tasks.task import Task

FILES, E2E = "text/files", "text/e2e"
KIND = "language-model"
_LABELS = objectives.load("classification")  # control codes are read as the labels of classes are
_STEMS = {"train": ("train", "trainset"), "validation": ("validation", "devset")}  # ours, and the authors'
_COLUMNS = (("meaning_representation", "human_reference"), ("mr", "ref"))


@dataclass(frozen=True)
class Columns:
    """The columns of a table: of texts or of whole chats, of prompts, and of labels."""

    text: str
    chat: bool = False
    prompt: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, spec: Spec) -> Columns:
        found = spec.text if spec.messages is None else spec.messages
        assert found is not None
        return cls(found, spec.messages is not None, spec.prompt, spec.label)

    @property
    def every(self) -> list[str]:
        return [column for column in (self.text, self.prompt, self.label) if column is not None]

    def checked(self, source: TableSource, unit: str = Spec.unit) -> CheckedTable:
        """One pass through a table. Raises UserError, with the number of the row, for a cell that does not fit."""
        checks: dict[str, Check] = {self.text: _check_chat if self.chat else _check_written}
        if self.prompt is not None:
            checks[self.prompt] = check_text
        return CheckedTable.of(source, checks, () if self.label is None else (self.label,), unit)

    def rows(self, table: CheckedTable, spec: Spec, labels: tuple[str, ...], split: str) -> Examples:
        """The rows of a table; without a label, all have number 0. A control code goes before each prompt."""
        chosen = table.rows(spec.max_per_unit)
        texts = table.texts(self.text, chosen, _spelt if self.chat else None)
        numbers = np.zeros(table.count, np.int64) if self.label is None else _LABELS.parse(table.labels, labels, split)
        numbers = numbers if chosen is None else numbers[chosen]
        prompts = None if self.prompt is None else table.texts(self.prompt, chosen)
        return Examples(
            texts, prompts if self.label is None else CodedPrompts(labels, numbers, prompts), numbers,
            None if chosen is None or table.units is None else table.units[chosen],
            documents=Documents(self.chat, spec.max_windows),
        )  # fmt: skip


def _check_written(cell: Any, column: str, place: str) -> None:
    check_text(cell, column, place)
    if not cell.strip():
        raise UserError(
            f"a text to learn must not be empty, got one in the column {column!r} of {place}; fill it in or drop it"
        )


def _check_chat(cell: Any, column: str, place: str) -> None:
    messages_of(cell, place)


def _spelt(cell: Any) -> str:
    return canonical_json(messages_of(cell, "a row"))


def _e2e(path: Path, split: str) -> TableSource | None:
    """A split in a folder of E2E."""
    found = (in_folder(path, stem) for stem in _STEMS[split])
    return next((one for one in found if one is not None), None)


def _e2e_columns(source: TableSource) -> Columns:
    """Its columns: prompts are meaning representations, texts are references."""
    for prompt, text in _COLUMNS:
        if {prompt, text} <= {*source.columns()}:
            return Columns(text, prompt=prompt)
    named = " or ".join(" and ".join(pair) for pair in _COLUMNS)
    raise UserError(f"the columns of E2E must be {named}, got others in {source.name}; rename them")


class TextFiles(Family):
    """Texts to write, of tables."""

    tasks: ClassVar = {
        FILES: "your own texts to write: --data with --text, --prompt and --text, or --messages; perplexity",
        E2E: "restaurants described after their properties: --data DIR; perplexity",
    }
    place = 4
    writes = True

    def flags_of(self, task: str) -> tuple[str, ...]:
        return ("text", "prompt", "messages", "label", "validation", "labels") if task == FILES else ("validation",)

    def objective(self, spec: Spec) -> Objective:
        return objectives.load(KIND).configured(spec)

    def check(self, spec: Spec) -> None:
        """Raise UserError where flags for columns or data are missing, or do not go together."""
        super().check(spec)
        if spec.data is None:
            raise UserError(f"the task {spec.task} reads files, got no --data; pass --data PATH")
        if spec.task == E2E:
            if not Path(spec.data).is_dir():
                raise UserError(f"--data must be the folder of E2E, got {spec.data!r}, which is none; pass --data DIR")
            return
        if (spec.text is None) == (spec.messages is None):
            found = "neither" if spec.text is None else "both"
            raise UserError(f"the task {FILES} needs --text or --messages, got {found}; pass one of them")
        if spec.messages is not None and (spec.prompt is not None or spec.label is not None):
            raise UserError("chats hold their prompts themselves, got --prompt or --label beside --messages; drop it")
        columns = Columns.of(spec).every
        if len(set(columns)) != len(columns):
            raise UserError("text, prompt and label must be different columns, got one twice; pass another")
        if spec.labels is not None and spec.label is None:
            raise UserError("labels are of a column of control codes, got --labels alone; pass --label COLUMN")

    def load(self, spec: Spec) -> Task:
        """The task of texts in files. Raises UserError with the number of the first invalid row."""
        source, judged = self._splits(spec)
        columns = self._columns(spec, source)
        table = columns.checked(source, spec.unit)
        labels: tuple[str, ...] = ()
        notes, read_from_training = [], []
        if columns.label is not None:
            labels = _LABELS.named(table.labels, spec.labels)[1]
            if spec.labels is None:
                notes.append(names_note(labels))
                read_from_training.append("the label names")
        validation = None
        if judged is None:
            notes.append(UNJUDGED)
        else:
            validation = self._judged(judged, spec, labels)
        objective = self.objective(spec)
        metric, *further = (one.name for one in objective.metrics)
        return Task(
            spec.task, columns.rows(table, spec, labels, "train"), validation, labels, metric, objective,
            tuple(further), notes=tuple(notes), read_from_training=tuple(read_from_training),
        )  # fmt: skip

    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        """The validation rows of a run, or those of `data`, in order: references of one prompt stay together."""
        if data is None:
            source = self._splits(spec)[1]
        elif spec.task == E2E and Path(data).is_dir():
            source = _e2e(Path(data), "validation")
        else:
            source = validation_source(Path(data))
        return {} if source is None else {"": self._judged(source, spec, labels)}

    def _judged(self, source: TableSource, spec: Spec, labels: tuple[str, ...]) -> Examples:
        columns, whole = self._columns(spec, source), replace(spec, unit=Spec.unit, max_per_unit=None)
        return columns.rows(columns.checked(source), whole, labels, "validation")

    def _columns(self, spec: Spec, source: TableSource) -> Columns:
        return _e2e_columns(source) if spec.task == E2E else Columns.of(spec)

    def _splits(self, spec: Spec) -> tuple[TableSource, TableSource | None]:
        if spec.task != E2E:
            return sources(spec)
        assert spec.data is not None
        train = _e2e(Path(spec.data), "train")
        if train is None:
            raise UserError(
                f"--data must hold the file train or trainset of E2E, got {spec.data!r} without; name it so"
            )
        apart = None if spec.validation is None else validation_source(Path(spec.validation))
        return train, apart or _e2e(Path(spec.data), "validation")


FAMILY = TextFiles()
