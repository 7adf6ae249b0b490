"""What rows went into a run's weights: kept in its `private/`, so that they are known again wherever their file went.

A run keeps a keyed sketch of its own rows, and those of all runs that it began with, each under a key of its own; and a
keyed digest of its rows in order, by which `dpft resume` knows them. Whoever reads the file can test whether a text
that they know was among the rows: it is as private as they are.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dpft.data.examples import Rows
from dpft.data.records import spelled
from dpft.errors import UserError
from dpft.privacy.ledger.storage.fingerprints import Sketch, keyed_digest, record_keys
from dpft.runs.folder import Run

FILE = "rows"  # private/rows.json
_FORMAT = 1


@dataclass(frozen=True)
class Part:
    """The rows of one run: its identity, the key, and their sketch under it."""

    run: str
    key: bytes
    sketch: Sketch

    def matches(self, rows: Rows) -> bool:
        """Whether `rows` are of the same people, as far as texts tell."""
        return self.sketch.matches(Sketch.of(self.key, rows.texts, rows.pairs))

    def shares(self, rows: Rows) -> bool:
        """Whether any record of `rows` is known to be among these; of very many records only a sample is known."""
        found = record_keys(self.key, rows.texts, rows.pairs)
        return bool(np.isin(found, self.sketch.keys).any())


@dataclass(frozen=True)
class Seen:
    """`parts`: the run's own first. `whole`: none is missing. `digest`: of the run's own rows in order."""

    parts: tuple[Part, ...]
    whole: bool
    digest: str

    @classmethod
    def of(cls, run: str, rows: Rows, before: Seen | None, *, begun: bool) -> Seen:
        """For a run on `rows`. `before`: what its start has seen, None where that cannot be read; `begun`: whether it
        has a start at all."""
        key = secrets.token_bytes(32)
        own = Part(run, key, Sketch.of(key, rows.texts, rows.pairs))
        earlier = () if before is None else before.parts
        whole = not begun or (before is not None and before.whole)
        return cls((own, *earlier), whole, keyed_digest(key, spelled(rows)))

    @classmethod
    def read(cls, run: Run) -> Seen | None:
        """What `run` has kept; None where there is nothing, or nothing that can be read, or another run's."""
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

    def called(self, run: str) -> Seen:
        """The same of a run that goes by another identity."""
        return replace(self, parts=(replace(self.parts[0], run=run), *self.parts[1:]))

    def check_same(self, rows: Rows) -> None:
        """Refuse rows that are not the run's own, in their order."""
        if not hmac.compare_digest(keyed_digest(self.parts[0].key, spelled(rows)), self.digest):
            raise other_rows()


def other_rows() -> UserError:
    return UserError(
        "a run resumes on the training rows that it began with, in their order, got others; restore its data, or train "
        "on the new rows as a run of its own"
    )


def _part(values: dict[str, Any]) -> Part:
    sketch = Sketch.from_bytes(base64.b64decode(values["sketch"], validate=True))
    return Part(str(values["run"]), bytes.fromhex(values["key"]), sketch)
