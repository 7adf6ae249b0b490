"""Finds and reads run folders. Nothing below private/ is ever opened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dpft.errors import UserError
from dpft.spec import Spec

State = Literal["finished", "unfinished", "broken"]
FORMAT = 1  # of run.json
FILES = ("run", "spec", "result", "privacy", "audit", "search")  # all that is read of a run, each NAME.json
_MARKS = ("run.json", "spec.json")
_LARGEST = 2**24  # bytes; a run's own files are a few thousand


class UnreadableRun(Exception):
    """Raised for an invalid run folder, with the reason in one line."""


@dataclass(frozen=True)
class RunRecord:
    """The content of one run folder. `note`: why it is broken or unfinished, or a warning; empty for none."""

    path: Path
    state: State
    note: str = ""
    spec: Spec | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] | None = None
    search: Mapping[str, Any] | None = None


def find(paths: Sequence[str | Path]) -> list[Path]:
    """The run folders among `paths`, in them, and in their runs/, each once and in order.

    A path without any is returned itself, to be reported as broken. Raises UserError for one that is not there.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, paths):
        if not given.is_dir():
            raise UserError(f"a run must be a folder, got {str(given)!r}; name one below runs/, or runs/ itself")
        for folder in [given] if _is_run(given) else list(_below(given)) or [given]:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    for parent in (folder, folder / "runs"):
        if parent.is_dir():
            yield from (child for child in sorted(parent.iterdir()) if _is_open(child) and _is_run(child))


def _is_open(folder: Path) -> bool:
    """Not private, and not hidden, as what is still being made is."""
    return folder.name != "private" and not folder.name.startswith(".")


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in _MARKS)


def read(folder: Path) -> RunRecord:
    """Read everything the report may use of one run. Never raises: errors become its note."""
    try:
        return _read(folder)
    except UnreadableRun as broken:
        return RunRecord(folder, "broken", str(broken))
    except OSError as error:
        return RunRecord(folder, "broken", f"{Path(str(error.filename)).name} cannot be read: {error.strerror}")


def _read(folder: Path) -> RunRecord:
    files = {name: _object(folder, name) for name in FILES}
    about, values = files["run"], files["spec"]
    if about is None or values is None:
        raise UnreadableRun(
            f"it holds no {'run' if about is None else 'spec'}.json: not a run, or one interrupted at its start"
        )
    if about.get("format") != FORMAT:
        raise UnreadableRun(f"its format must be {FORMAT}, got {about.get('format')!r}; use the dpft that made it")
    try:
        spec = Spec.from_json(values)
    except (UserError, TypeError, ValueError) as error:
        raise UnreadableRun(f"spec.json: {error}") from None
    result, card = files["result"], files["privacy"]
    if result is None or card is None:
        return RunRecord(
            folder, "unfinished", "no result yet: it is running or was interrupted (dpft resume)", spec, about
        )
    note = _check(spec, result, card)
    return RunRecord(folder, "finished", note, spec, about, result, card, files["audit"], files["search"])


def _object(folder: Path, name: str) -> dict[str, Any] | None:
    """The content of NAME.json; None where there is none."""
    file = folder / f"{name}.json"
    if not file.exists() and not file.is_symlink():
        return None
    if file.is_symlink():  # it might lead into private/
        raise UnreadableRun(f"{name}.json must be a file of its own, got a link")
    if file.stat().st_size > _LARGEST:
        raise UnreadableRun(f"{name}.json must be below 16 MiB, got {file.stat().st_size} bytes")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UnreadableRun(f"{name}.json is no JSON") from None
    if not isinstance(found, dict):
        raise UnreadableRun(f"{name}.json must hold one JSON object, got {type(found).__name__}")
    return found


def _check(spec: Spec, result: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """A warning about a finished run, or "". Raises Broken where its files disagree."""
    for key, kind in (("metric", str), ("steps", int), ("trainable", int), ("precision", str), ("device", str)):
        if not isinstance(result.get(key), kind):
            raise UnreadableRun(
                f"result.json: {key} must be {'text' if kind is str else 'a number'}, got {result.get(key)!r}"
            )
    value = number(result.get("value"))
    hidden = "seconds" in result and result["seconds"] is None  # of a search, whose times stay secret
    if value is None or (number(result.get("seconds")) is None and not hidden):
        raise UnreadableRun(f"result.json: value and seconds must be numbers, got {result.get('value')!r}")
    if not isinstance(card.get("statement"), str) or not isinstance(card.get("units"), int):
        raise UnreadableRun("privacy.json: it must hold a statement and the number of units")
    private = spec.budget is not None
    if card.get("private") is not private or (result.get("epsilon") is not None) is not private:
        raise UnreadableRun("spec, result and card disagree on whether the run is private")
    if spec.budget is not None:
        epsilon = number(card.get("epsilon"))
        if epsilon is None or not 0 < epsilon <= spec.budget.epsilon or card.get("delta") != spec.budget.delta:
            raise UnreadableRun(
                f"privacy.json: ε must lie within the spec's budget, at its δ, got {card.get('epsilon')!r}"
            )
        if result["epsilon"] != card["epsilon"] or not isinstance(card.get("adjacency"), str):
            raise UnreadableRun("result and card must state the same ε, and the card whom it protects")
    return "" if math.isfinite(value) else f"its {result['metric']} is {value}: it is in no figure and no mean"


def number(value: object) -> float | None:
    """A number of JSON as a float (NaN and infinities too); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
