"""GLUE (Wang et al. 2019), from the hub (nyu-mll/glue) or from local parquet files of the same columns."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dpft.data.examples import Examples
from dpft.data.units import kept, numbered
from dpft.errors import UserError
from dpft.objectives import Objective
from dpft.objectives.classification import Classification
from dpft.objectives.regression import Regression
from dpft.spec import Spec
from dpft.tasks._family import Family
from dpft.tasks.task import Task

_CLASSES = Classification()


@dataclass(frozen=True)
class Config:
    """Columns, label names (none for a score) and metric of one GLUE task; its validation split, others by name, and
    what GLUE reports beside the metric."""

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metric: str
    validation: str = "validation"
    further: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    objective: Objective = _CLASSES


_ENTAILS = ("entailment", "not_entailment")
CONFIGS = {
    "sst2": Config(("sentence",), ("negative", "positive"), "accuracy"),
    "cola": Config(("sentence",), ("unacceptable", "acceptable"), "matthews"),
    "mrpc": Config(("sentence1", "sentence2"), ("not_equivalent", "equivalent"), "f1", further=("accuracy",)),
    "qqp": Config(("question1", "question2"), ("not_duplicate", "duplicate"), "f1", further=("accuracy",)),
    "stsb": Config(
        ("sentence1", "sentence2"), (), "pearson", further=("spearman",), objective=Regression(0, 5, stated=True)
    ),
    "mnli": Config(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        "accuracy",
        "validation_matched",
        others=(("mismatched", "validation_mismatched"),),
    ),
    "qnli": Config(("question", "sentence"), _ENTAILS, "accuracy"),
    "rte": Config(("sentence1", "sentence2"), _ENTAILS, "accuracy"),
}
NAMES = {f"glue/{name}": f"GLUE {name}, metric {', '.join((c.metric, *c.further))}" for name, c in CONFIGS.items()}


class Glue(Family):
    """GLUE by the hub's names, or from local files of their form."""

    tasks: ClassVar = NAMES
    place = 2

    def load(self, spec: Spec) -> Task:
        """The task `glue/NAME`. Raises UserError on missing files, columns or labels."""
        name = spec.task.removeprefix("glue/")
        config = CONFIGS[name]
        train = _with_units(_table(spec, name, "train"), config, spec)
        others = self.validation(spec, None, config.objective, config.labels)
        validation = others.pop("")
        return Task(
            spec.task, train, validation, config.labels, config.metric, config.objective, config.further, others,
        )  # fmt: skip

    def validation(
        self, spec: Spec, data: str | None, objective: Objective, labels: tuple[str, ...]
    ) -> dict[str, Examples]:
        name = spec.task.removeprefix("glue/")
        config = CONFIGS[name]
        spec = spec if data is None else replace(spec, data=data)
        splits = {"": config.validation, **dict(config.others)}
        return {part: _rows(_table(spec, name, split), config, split) for part, split in splits.items()}

    def metrics(self, task: str, objective: Objective) -> tuple[str, ...]:
        config = CONFIGS[task.removeprefix("glue/")]
        return (config.metric, *config.further)


FAMILY = Glue()


def _table(spec: Spec, name: str, split: str) -> Any:
    """One split as a pandas table."""
    if spec.data is not None:
        return _local(Path(spec.data), split)
    import datasets
    from huggingface_hub.utils import logging as hub

    level = hub.get_verbosity()
    hub.set_verbosity(logging.CRITICAL)  # it tells of every retry on stderr
    try:
        return datasets.load_dataset("nyu-mll/glue", name, split=split).to_pandas()
    except (OSError, ValueError, RuntimeError):
        raise UserError(
            f"glue/{name} must come from the hub or a folder, got no answer from the hub; "
            "offline, pass --data DIR with a parquet file of each split (dpft tasks)"
        ) from None
    finally:
        hub.set_verbosity(level)


def _local(folder: Path, split: str) -> Any:
    import pandas as pd
    import pyarrow as pa

    if not folder.is_dir():
        found = "which is a file" if folder.exists() else "which is not there"
        raise UserError(f"--data must be a folder of parquet files, got {str(folder)!r}, {found}; pass --data DIR")
    files = sorted(folder.glob(f"{split}.parquet")) or sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"--data must hold {split}.parquet, got {str(folder)!r} without it; pass --data DIR")
    try:
        return pd.concat([pd.read_parquet(file) for file in files], join="inner")
    except (OSError, ValueError, pa.ArrowException):
        raise UserError(
            f"{split}.parquet must be a parquet file, got one that cannot be read; write it again"
        ) from None


def _with_units(table: Any, config: Config, spec: Spec) -> Examples:
    """The training rows, at most `spec.max_per_unit` of each unit where `spec.unit` names a column."""
    if spec.unit == Spec.unit:
        return _rows(table, config, "train")
    if spec.unit not in table.columns or spec.max_per_unit is None:
        raise UserError(f"the unit must be a column of train, got none named {spec.unit!r}; pass --unit COLUMN")
    numbers = numbered(table[spec.unit].tolist(), spec.unit, lambda row: f"row {row + 1} of train")
    rows, whole = kept(numbers, spec.max_per_unit), _rows(table, config, "train")
    texts, pairs = (None if column is None else [column[row] for row in rows] for column in (whole.texts, whole.pairs))
    return Examples(texts or [], pairs, whole.labels[rows], numbers[rows])


def _rows(table: Any, config: Config, split: str) -> Examples:
    missing = [c for c in (*config.columns, "label") if c not in table.columns]
    if missing:
        raise UserError(
            f"the columns must be {', '.join((*config.columns, 'label'))}, got none named {', '.join(missing)} "
            f"in {split}; rename them"
        )
    missed = np.flatnonzero(table["label"].isna())
    if len(missed):
        raise UserError(
            f"every row of {split} must have a label, got missing ones, the first in row {missed[0] + 1}; "
            "drop those rows"
        )
    texts = [_texts(table[c], split) for c in config.columns]
    return Examples(texts[0], texts[1] if len(texts) > 1 else None, _labels(table["label"], config, split))


def _texts(column: Any, split: str) -> list[str]:
    """A missing text is an empty one: QQP has some."""
    import pyarrow as pa

    try:
        found = column.astype(object).where(column.notna(), "").tolist()
    except (ValueError, pa.ArrowException):
        raise UserError(f"the texts of {split} must be UTF-8, got other bytes in {column.name!r}; fix them") from None
    for row, text in enumerate(found, 1):
        if not isinstance(text, str):
            raise UserError(
                f"the texts of {split} must be texts, got another in the column {column.name!r} of row {row}; map them "
                "first"
            )
    return list(found)


def _labels(column: Any, config: Config, split: str) -> Any:
    try:
        values = column.to_numpy(dtype=np.float64)
    except (ValueError, TypeError):
        raise UserError(
            f"the labels of {split} must be numbers, got a column of {column.dtype}; map them first"
        ) from None
    if not config.labels:
        with np.errstate(over="ignore"):  # Task refuses infinities
            return values.astype(np.float32)
    bad = np.flatnonzero(~(np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.round(values))))
    if len(bad):
        raise UserError(
            f"the labels of {split} must be whole numbers, got fractions or huge ones, the first in row {bad[0] + 1}; "
            "map them first"
        )
    found = values.astype(np.int64)
    config.objective.check(found, config.labels, split)
    return found
