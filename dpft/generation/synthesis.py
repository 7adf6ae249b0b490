"""Synthetic data from a finished run: prompts or control codes, batches that survive an interruption, one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpft.data.documents import control_code
from dpft.errors import UserError, require_whole
from dpft.generation.files import check_target, write_rows
from dpft.inference.trained_model import Trained
from dpft.inference.writing import Sampling
from dpft.objectives.language import Continuation
from dpft.runs.label_shares import FILE as LABEL_SHARES
from dpft.spec import canonical_json

Row = dict[str, Any]
Stepped = Callable[[int, int], None]  # rows written, rows in all


@dataclass(frozen=True)
class Request:
    """What to write. prompts: used in turn until there are `count` rows; () for none. label_shares: of control codes;
    None for those that the run released, else equal ones."""

    count: int
    sampling: Sampling = field(default_factory=Sampling)
    prompts: tuple[str, ...] = ()
    label_shares: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_whole(self.count, 1, "count must be a whole number above 0", "pass --count")


@dataclass(frozen=True)
class Synthetic:
    """The file that was written, its number of rows, and notes for the user."""

    path: Path
    rows: int
    notes: tuple[str, ...] = field(default=())


def generate(trained: Trained, to: Path, request: Request, stepped: Stepped = lambda done, total: None) -> Synthetic:
    """Write `request.count` rows to the new file `to` (.jsonl, .csv or .parquet), in the columns of the run's data.

    Each row has the text, the label and prompt where there are any, and `finish_reason`. Finished batches are kept in
    TO.part: the same call takes up there. Raises UserError, also where the disk is full; nothing is lost then.
    """
    check_target(to)
    labels, notes = _labels(trained, request)
    prompts = _prompts(trained, request, labels)
    writer = trained.writer
    part = Part.open(to, _identity(trained, request))
    done = part.rows()
    stepped(len(done), request.count)
    for numbers, texts in writer.batches(prompts, request.sampling, first=part.batches):
        fresh = [_row(trained, request, number, text, labels) for number, text in zip(numbers, texts, strict=True)]
        part.append(fresh)
        done += fresh
        stepped(len(done), request.count)
    done.sort(key=lambda row: row["row"])
    write_rows(to, [{key: value for key, value in row.items() if key != "row"} for row in done])
    part.path.unlink()
    return Synthetic(to, len(done), notes)


@dataclass
class Part:
    """The finished batches of an interrupted call: a line that says which call, then a line for each batch."""

    path: Path
    found: list[list[Row]]

    @classmethod
    def open(cls, to: Path, identity: str) -> Part:
        """The part of `to`; a new one where there is none. Raises UserError where it is another call's."""
        path = to.with_name(to.name + ".part")
        if not path.exists():
            _write_line(path, identity, "x")
            return cls(path, [])
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if not whole or whole[0].strip() != identity:
            raise UserError(
                f"an interrupted file goes on with the same run and options, got others for {str(path)!r}; "
                "delete it to start anew"
            )
        if len(whole) < len(lines):  # the last line was cut by an interruption
            path.write_text("".join(whole), encoding="utf-8")
        return cls(path, [json.loads(line) for line in whole[1:]])

    @property
    def batches(self) -> int:
        return len(self.found)

    def rows(self) -> list[Row]:
        return [row for batch in self.found for row in batch]

    def append(self, rows: list[Row]) -> None:
        _write_line(self.path, json.dumps(rows, ensure_ascii=False), "a")


def _write_line(path: Path, line: str, mode: str) -> None:
    try:
        with open(path, mode, encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(
            f"generated rows must be written, got {error.strerror} at {str(path)!r}; make room and run the same "
            "command: it goes on where it was"
        ) from None


def _identity(trained: Trained, request: Request) -> str:
    about = [trained.run.id, asdict(request)]
    return hashlib.sha256(canonical_json(about).encode()).hexdigest()


def _labels(trained: Trained, request: Request) -> tuple[list[str] | None, tuple[str, ...]]:
    """A control code for each row, drawn by their shares with the public seed; None where the run has none."""
    if len(trained.labels) < 2:
        if request.label_shares is not None:
            raise UserError("--label-shares go with a run of --label, got one without; drop --label-shares")
        return None, ()
    shares, note = _shares(trained, request)
    drawn = np.random.default_rng(request.sampling.seed).choice(len(shares), request.count, p=list(shares.values()))
    names = list(shares)
    return [names[number] for number in drawn], (note,)


def _shares(trained: Trained, request: Request) -> tuple[dict[str, float], str]:
    stated = request.label_shares
    if stated is not None:
        if set(stated) != set(trained.labels):
            raise UserError(
                f"label-shares must name each of the run's {len(trained.labels)} labels once, got {len(stated)} names, "
                f"{len(set(stated) - set(trained.labels))} of them unknown; correct --label-shares"
            )
        if min(stated.values()) < 0 or abs(sum(stated.values()) - 1) > 0.001:
            raise UserError(
                f"label-shares must be numbers from 0 up that sum to 1, got a sum of {sum(stated.values()):g}; "
                "correct --label-shares"
            )
        return _normalised(stated), "labels are drawn by the shares that were stated"
    released = trained.run.read_json(LABEL_SHARES)
    if released is not None:
        how = "with privacy" if released["private"] else "exactly, NOT PRIVATE"
        return _normalised(released["shares"]), f"labels are drawn by the shares that the run released {how}"
    equal = dict.fromkeys(trained.labels, 1.0)
    return _normalised(equal), "labels are drawn in equal shares; state others with --label-shares a=.3,b=.7"


def _normalised(shares: Mapping[str, float]) -> dict[str, float]:
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _prompts(trained: Trained, request: Request, labels: Sequence[str] | None) -> list[str]:
    wants = trained.run.spec.prompt is not None or trained.run.spec.messages is not None
    if wants and not request.prompts:
        raise UserError("this run writes after prompts, got none; pass --prompts FILE, with one on each line")
    own = [request.prompts[number % len(request.prompts)] for number in range(request.count)] if request.prompts else []
    plain = own or [""] * request.count
    if labels is None:
        return plain
    return [control_code(label, prompt) for label, prompt in zip(labels, plain, strict=True)]


def _row(
    trained: Trained, request: Request, number: int, found: Continuation, labels: Sequence[str] | None
) -> Row:  # fmt: skip
    spec = trained.run.spec
    row: Row = {"row": number}
    if request.prompts:
        row[spec.prompt or "prompt"] = request.prompts[number % len(request.prompts)]
    row[spec.text or "text"] = found.text
    if labels is not None:
        row[spec.label or "label"] = labels[number]
    return {**row, "finish_reason": found.finish_reason}


def prompts_of(path: Path, column: str | None) -> tuple[str, ...]:
    """Prompts from a file: one on each line of a .txt, or a column of a table. Raises UserError."""
    from dpft.tasks.readers.tables import of_file

    if path.suffix != ".txt":
        return tuple(_cells(of_file(path).rows((column or "prompt",)), path))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--prompts must be a UTF-8 text file or a table, got {str(path)!r} ({type(error).__name__}); pass another"
        ) from None
    found = tuple(line for line in lines if line.strip())
    if not found:
        raise UserError(f"--prompts must hold at least one prompt, got none in {str(path)!r}; pass another")
    return found


def _cells(rows: Iterator[tuple[int, Sequence[Any]]], path: Path) -> Iterator[str]:
    for number, (cell,) in rows:
        if not isinstance(cell, str):
            raise UserError(f"each prompt must be a text, got none in row {number + 1} of {str(path)!r}; fill it in")
        yield cell
