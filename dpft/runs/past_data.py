"""Which rows a run's weights were trained on, kept in private/rows.json to recognise them, wherever their file is now.

The file holds a keyed sketch of the run's own rows and of the rows of every run that it started from, each under its
own key, and a keyed digest of its own rows in order, which `dpft resume` compares. Whoever reads the file can test
whether a text that they know was among the rows: it is as private as the rows themselves.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dpft.data.examples import Examples
from dpft.data.records import serialized
from dpft.errors import UserError
from dpft.privacy.ledger.storage.fingerprints import Sketch, keyed_digest, record_keys
from dpft.runs.folder import Run

FILE = "rows"  # private/rows.json
_FORMAT = 1


@dataclass(frozen=True)
class RowSketch:
    """The rows of one run: the run's identity, a key, and the sketch of the rows under that key."""

    run: str
    key: bytes
    sketch: Sketch

    def matches(self, rows: Examples) -> bool:
        """Whether `rows` belong to the same population, judged by their texts (`Sketch.matches`)."""
        return self.sketch.matches(Sketch.of(self.key, rows.texts, rows.pairs))

    def shares(self, rows: Examples) -> bool:
        """Whether any record of `rows` is in the sketch, which holds only a sample of very many records."""
        found = record_keys(self.key, rows.texts, rows.pairs)
        return bool(np.isin(found, self.sketch.keys).any())


@dataclass(frozen=True)
class PastData:
    """The data that a run's weights were trained on.

    `parts`: the run's own rows, then those of earlier runs. `whole`: no part is missing. `digest`: of the run's own
    rows in order.
    """

    parts: tuple[RowSketch, ...]
    whole: bool
    digest: str

    @classmethod
    def of(cls, run: str, rows: Examples, before: PastData | None, *, begun: bool) -> PastData:
        """For a run on `rows`. begun: it starts from another run; before: that run's past data, None if unreadable."""
        key = secrets.token_bytes(32)
        own = RowSketch(run, key, Sketch.of(key, rows.texts, rows.pairs))
        earlier = () if before is None else before.parts
        whole = not begun or (before is not None and before.whole)
        return cls((own, *earlier), whole, keyed_digest(key, serialized(rows)))

    @classmethod
    def read(cls, run: Run) -> PastData | None:
        """Read the file of `run`; None if it is missing, unreadable, or another run's."""
        try:
            values = run.read_json(f"private/{FILE}")
            if values is None or values["format"] != _FORMAT:
                return None
            parts = tuple(_part(one) for one in values["parts"])
            found = cls(parts, values["whole"] is True, str(values["digest"]))
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return found if parts and parts[0].run == run.id else None

    def keep(self, run: Run) -> None:
        parts = [
            {"run": one.run, "key": one.key.hex(), "sketch": base64.b64encode(one.sketch.blob).decode()}
            for one in self.parts
        ]
        run.write_private_json(
            FILE, {"format": _FORMAT, "whole": self.whole, "digest": self.digest, "parts": parts}
        )  # fmt: skip

    def called(self, run: str) -> PastData:
        """The same, for a run with another identity."""
        return replace(self, parts=(replace(self.parts[0], run=run), *self.parts[1:]))

    def check_same(self, rows: Examples) -> None:
        """Raise UserError unless `rows` are the run's own rows, in their order."""
        if not hmac.compare_digest(keyed_digest(self.parts[0].key, serialized(rows)), self.digest):
            raise wrong_rows()


def wrong_rows() -> UserError:
    return UserError(
        "a run must resume on the training rows that it began with, in order, got others; restore its data, or train "
        "on the new rows as a run of its own"
    )


def _part(values: dict[str, Any]) -> RowSketch:
    sketch = Sketch.from_bytes(base64.b64decode(values["sketch"], validate=True))
    return RowSketch(str(values["run"]), bytes.fromhex(values["key"]), sketch)
