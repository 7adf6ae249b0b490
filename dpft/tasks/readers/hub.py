"""A data set of the Hugging Face hub as a table, memory-mapped in the cache of `datasets`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.errors import UserError
from dpft.tasks.readers.source import Row

_BATCH = 4096


@dataclass(frozen=True)
class HubSplit:
    """One split. Rows are counted from 1. Class labels are read as their names."""

    name: str
    split: str
    table: Any
    digest: str | None = None  # not cached by dpft: `datasets` caches it

    def columns(self) -> tuple[str, ...]:
        return tuple(self.table.column_names)

    def where(self, number: int) -> str:
        return f"row {number} of {self.name}, {self.split}"

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for column in columns:
            if column not in self.table.column_names:
                raise UserError(
                    f"the columns must be of the data set's {len(self.table.column_names)}, got none named {column!r} "
                    f"in {self.name}; pass --text, --label and so on"
                )
        number = 0
        named = {column: getattr(self.table.features[column], "names", None) for column in columns}
        for batch in self.table.select_columns(list(dict.fromkeys(columns))).iter(batch_size=_BATCH):
            for values in zip(*(batch[column] for column in columns), strict=True):
                number += 1
                yield number, tuple(_named(v, named[c]) for v, c in zip(values, columns, strict=True))


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def is_id(data: str) -> bool:
    """Whether `data` has the form OWNER/NAME and no such local path exists."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", data)) and not Path(data).exists() and not Path(data).suffix


def split(name: str, of: str) -> HubSplit:
    """A split of a data set. Raises UserError where it does not exist or cannot be fetched."""
    found = _load(name)
    if of not in found:
        raise UserError(f"a data set must have a split {of}, got {name!r} without; pass --data FILE")
    return HubSplit(name, of, found[of])


def validation(name: str) -> HubSplit | None:
    """The split `validation`, None where it does not exist."""
    return split(name, "validation") if "validation" in _load(name) else None


def _load(name: str) -> Any:
    import datasets
    from huggingface_hub.utils import logging as client

    level = client.get_verbosity()
    client.set_verbosity(logging.CRITICAL)  # it reports every retry on stderr
    try:
        return datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError):
        raise UserError(
            f"--data must be a file, a folder or a data set of the hub, got {name!r}, which could not be fetched; "
            "offline, pass --data FILE"
        ) from None
    finally:
        client.set_verbosity(level)
