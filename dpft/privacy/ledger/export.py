"""Export the ledger: full reports of populations, the chain as JSON lines, and the heads that run folders keep."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpft.errors import UserError
from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.ledger import Ledger
from dpft.privacy.ledger.populations import ChargedRun, Population
from dpft.privacy.ledger.storage import hash_chain
from dpft.privacy.ledger.storage.entries import SECRET, Limit, Reservation
from dpft.privacy.ledger.summary import own_delta, summarize
from dpft.spec import canonical_json


def report(population: Population) -> dict[str, Any]:
    """A plain dict of a population: names, runs, both bounds, and limits with what is left of them."""
    delta = own_delta(population)
    spent = {} if delta is None else summarize(population, delta).to_json()
    return {
        "delta": None, "composition": None, "filter": None, **spent,
        "id": population.id, "names": population.names, "joined": population.parts, "since": population.time,
        "limits": [{"of": population.title_of(part), **_held(population, limit)}
                   for part, limit in population.limit_of.items()],
        "runs": [_run(run) for run in population.runs],
    }  # fmt: skip


def _held(population: Population, limit: Limit) -> dict[str, Any]:
    """A limit, what is spent of it by which bound (None without a bound), and what is left.

    Whether a run fits is decided only when it reserves.
    """
    spending = Spending.of(population)
    try:
        spent: float | None = spending.bound(limit)
    except ArithmeticError:  # runs of different units, or beyond the reach of every accountant
        spent = None
    left = 0.0 if spent is None else max(0.0, limit.epsilon - spent)
    by = "the RDP filter" if spending.adaptive(limit) else "composition"
    return {**asdict(limit), "spent": spent, "by": by, "left": left}


def _run(run: ChargedRun) -> dict[str, Any]:
    terms = run.terms
    if isinstance(terms, Reservation):
        label = f"({terms.epsilon:.4g}, {terms.delta:g})"
    else:
        label = f"a search of {terms.mean:g} runs expected, shape {terms.shape:g}"
        if terms.draws != SECRET:
            label += ", by an earlier version: its promise does not hold"
    return {
        "run": terms.run, "time": run.time, "noise": terms.noise, "rate": terms.rate, "steps": terms.steps,
        "charged": run.charged, "unit": run.unit, "settled": run.settled, "label": label,
    }  # fmt: skip


def lines(ledger: Ledger) -> Iterator[str]:
    """Each row of the ledger as a JSON line: seq, prev, body and hash = sha256(prev + newline + body)."""
    for row in hash_chain.rows(ledger.store):
        yield canonical_json({"seq": row.seq, "prev": row.prev, "body": row.body, "hash": row.hash})


def heads(run: Path) -> list[str]:
    """The ledger heads in a run folder: at reservation, newest checkpoint and end. Raises UserError."""
    try:
        kept = [json.loads((run / "run.json").read_text())["ledger_head"]]
        if (run / "privacy.json").is_file():
            kept.append(json.loads((run / "privacy.json").read_text()).get("ledger_head"))
        checkpoint = run / "checkpoints" / "last.safetensors"
        if checkpoint.is_file():
            kept.append(_metadata(checkpoint).get("ledger"))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, struct.error):
        rule = "a run must be a folder with its run.json, as dpft train leaves it"
        raise UserError(f"{rule}, got {str(run)!r}; name one below runs/") from None
    found = [head for head in kept if head]
    if not found:
        raise UserError(f"a run must be private to be in a ledger, got {str(run)!r}; name one that is")
    return found


def _metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose header is 8 bytes of length, then JSON."""
    with open(file, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        return dict(json.loads(stream.read(size)).get("__metadata__", {}))
