"""How good a run's texts are: synthetic rows beside real ones, and texts after prompts beside people's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft import tasks
from dpft.data.documents import ASSISTANT, control_code
from dpft.data.examples import Examples
from dpft.errors import UserError, require_whole
from dpft.generation.copies import copies
from dpft.generation.quality import Quality, finish_reasons, quality
from dpft.generation.references import Agreement, agreement, by_prompt
from dpft.generation.usefulness import Probe, RealRows, Scores
from dpft.inference.inputs import load_task
from dpft.inference.trained_model import Trained
from dpft.machine.memo import Memo
from dpft.progress import Progress
from dpft.runs.folder import Run
from dpft.runs.past_data import PastData
from dpft.spec import Spec
from dpft.tasks.readers.tables import of_file

PRIVATE = "synthetic"  # private/synthetic.json
_REASON = "finish_reason"


@dataclass(frozen=True)
class SyntheticRows:
    """Rows of a synthetic file. labels: (N,) numbers of the run's labels; None where the run has none. reasons: why
    each text ended; None where the file does not say it."""

    texts: list[str]
    labels: NDArray[np.int64] | None
    reasons: list[str] | None

    @classmethod
    def read(cls, file: Path, spec: Spec, labels: Sequence[str]) -> SyntheticRows:
        """Read the run's own columns. Raises UserError, with the place of a bad row, never its text."""
        source = of_file(file)
        columns = [spec.text or "text"]
        if len(labels) > 1:
            columns.append(spec.label or "label")
        if _REASON in source.columns():
            columns.append(_REASON)
        places = {name: number for number, name in enumerate(labels)}
        found: dict[str, list[Any]] = {column: [] for column in columns}
        for number, cells in source.rows(columns):
            if not isinstance(cells[0], str):
                raise UserError(
                    f"each synthetic row must have a text, got none in the column {columns[0]!r} of "
                    f"{source.where(number)}; write the file again with dpft generate"
                )
            if len(labels) > 1 and str(cells[1]) not in places:
                raise UserError(
                    f"each synthetic row must have one of the run's {len(labels)} labels, got another in "
                    f"{source.where(number)}; pass a file that this run wrote"
                )
            for column, cell in zip(columns, cells, strict=True):
                found[column].append(cell)
        texts = found[columns[0]]
        if not texts:
            raise UserError(f"synthetic data must hold at least one row, got none in {source.name}; pass another file")
        numbers = [places[str(cell)] for cell in found[columns[1]]] if len(labels) > 1 else None
        reasons = [str(cell) for cell in found[_REASON]] if _REASON in found else None
        return cls(texts, None if numbers is None else np.array(numbers, np.int64), reasons)


@dataclass(frozen=True)
class SyntheticReport:
    """What may be shown of synthetic rows: no field is computed on training rows, except through the run's releases.

    real: the same figures of the validation rows, without noise. finished: the share of each finish reason. useful: of
    a linear probe that is trained on the synthetic rows, on the validation rows; None without labels. missing: labels
    that no synthetic row has. private_figures: the file with the figures on training rows.
    """

    synthetic: Quality
    real: Quality
    finished: dict[str, float] | None
    useful: Scores | None
    missing: tuple[str, ...]
    private_figures: Path

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "private_figures": str(self.private_figures)}


def judge(
    trained: Trained, file: Path, data: str | None = None, progress: Progress | None = None, encoder: str = Spec.model
) -> SyntheticReport:
    """Judge the synthetic rows of `file`, which the run `trained` wrote, by the run's validation rows, or those of
    `data`. encoder: of the probe.

    What is computed on training rows (copies, and what the same probe learns from them) goes to private/synthetic.json
    of the run and nowhere else: the promise does not cover it. Raises UserError.
    """
    progress = progress or Progress()
    _check_writes(trained, "--synthetic")
    run, labels = trained.run, trained.labels
    rows = SyntheticRows.read(file, run.spec, labels)
    progress.stage("reading the data")
    task = _task(trained, data)
    assert task.validation is not None
    _check_same(run, task.train)
    training, held_out = (_texts(part) for part in (task.train, task.validation))
    compared = min(len(rows.texts), len(held_out))
    useful, real = None, None
    missing: tuple[str, ...] = ()
    if rows.labels is not None:
        progress.stage("training a probe on synthetic and on real rows")
        probe = Probe(task, run.spec, trained.hardware, encoder)  # chats have no labels
        useful, real = probe.synthetic(rows.texts, rows.labels), probe.real(run.path / "private")
        missing = tuple(name for number, name in enumerate(labels) if number not in rows.labels)
    progress.stage("looking for copies of training rows")
    shared = copies(rows.texts, training, held_out)
    run.write_private_json(PRIVATE, _private(file, asdict(shared), useful, real))
    return SyntheticReport(
        quality(rows.texts, compared), quality(held_out, compared),
        None if rows.reasons is None else finish_reasons(rows.reasons), useful, missing,
        run.path / "private" / f"{PRIVATE}.json",
    )  # fmt: skip


def judge_prompts(trained: Trained, count: int, data: str | None = None) -> Agreement:
    """Write greedily after the first `count` distinct prompts of the validation rows, or of those of `data`, and
    compare with the texts of all rows that have them. Raises UserError for a run without prompts."""
    require_whole(count, 1, "generate must be a whole number of prompts above 0", "pass --generate")
    _check_writes(trained, "--generate")
    rows = _validation(trained, data)
    references = {} if rows.pairs is None else by_prompt(rows.pairs, rows.texts)
    if references.keys() <= {control_code(label) for label in trained.labels}:
        found = "control codes alone" if references else "none"
        raise UserError(f"BLEU, chrF and ROUGE-L need a run with prompts, got {found}; pass --synthetic FILE")
    prompts = list(islice(references, count))
    written = trained.write(prompts)
    return agreement(references, {prompt: one.text for prompt, one in zip(prompts, written, strict=True)})


def _check_writes(trained: Trained, flag: str) -> None:
    own = trained.objective.wording
    if own.verb != "write":
        raise UserError(f"{flag} is for a run that writes, got one that {own.gives}; drop it, or train on a text task")


def _validation(trained: Trained, data: str | None) -> Examples:
    parts = tasks.judged(trained.run.spec, data, trained.objective, trained.labels)
    if not parts:
        raise UserError("evaluation needs held-out rows, got a run without a validation set; pass --data FILE")
    return next(iter(parts.values()))


def _task(trained: Trained, data: str | None) -> tasks.Task:
    """The run's task with one validation set."""
    task = load_task(trained.run.spec, Memo())
    return replace(task, validation=_validation(trained, data), others={})


def _check_same(run: Run, rows: Examples) -> None:
    """Raise UserError unless `rows` are those that the run was trained on, where that is known."""
    past = PastData.read(run)
    try:
        if past is not None:
            past.check_same(rows)
    except UserError:
        raise UserError(
            "copies are looked for in the rows that the run was trained on, got others; restore its data"
        ) from None


def _texts(rows: Examples) -> list[str]:
    """The texts that the model learned to write; of a chat the assistant's turns."""
    if rows.documents is None or not rows.documents.chat:
        return list(rows.texts)
    return ["\n".join(one["content"] for one in json.loads(chat) if one["role"] == ASSISTANT) for chat in rows.texts]


def _private(file: Path, shared: dict[str, Any], useful: Scores | None, real: RealRows | None) -> dict[str, Any]:
    return {
        "note": "computed on training rows without noise: not covered by the run's promise; do not publish",
        "file": str(file),
        "copies": shared,
        "useful": None if useful is None else asdict(useful),
        "real": None if real is None else {
            "note": "the private figure is of a training at the run's epsilon and delta that is in no ledger",
            **asdict(real),
        },
    }  # fmt: skip
