"""Tables of the runs' privacy statements and of audits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpft.reports.reading import formatting
from dpft.reports.reading.folders import RunRecord, number
from dpft.reports.reading.formatting import MISSING
from dpft.reports.reading.frame import bounds
from dpft.reports.tables.tables import Column, Table, Text

from dpft.runs.statements import stated

NOTHING = Text(MISSING)


def statements(runs: Sequence[RunRecord]) -> Table | None:
    """The privacy statement of each finished run, with its parameters."""
    rows = []
    for run in runs:
        if run.state == "finished":
            card = run.card
            parts = [stated(card), *_further(card)]
            rows.append([
                Text(run.path.name), Text("; ".join(parts)), _number(card, "noise", 4), _number(card, "clip", 4),
                _number(card, "rate", 4), _number(card, "steps_charged", 6), _number(card, "units", 9),
                Text(str(card.get("accountant") or MISSING)), Text(str(card.get("ledger_head") or MISSING)[:12]),
            ])  # fmt: skip
    columns = [
        Column("run"), Column("promise"), Column("noise multiplier σ", True, "in units of the clip"),
        Column("clipping norm C", True, "of one unit's gradient"),
        Column("sampling rate q", True, "probability to be in a batch"),
        Column("steps charged", True, "in the ledger"), Column("units", True, "how many are protected"),
        Column("upper bound by"), Column("ledger head", hint="the first 12 digits of the newest hash"),
    ]  # fmt: skip
    return Table("statements", "What each run promises", columns, rows) if rows else None


def _further(card: Mapping[str, Any]) -> list[str]:
    """Further statements of a card: on the start from another run, and on the search."""
    parts = (value.get("statement") for value in card.values() if isinstance(value, Mapping))
    return [part for part in parts if isinstance(part, str)]


def _number(card: Mapping[str, Any], key: str, digits: int) -> Text:
    value = number(card.get(key))
    return NOTHING if value is None else Text(f"{value:,.{digits}g}", value)


def coverage(runs: Iterable[RunRecord]) -> tuple[list[str], list[str]]:
    """(covered, not covered): all lines of the private cards, each once."""
    cards = [run.card for run in runs if run.state == "finished" and run.card["private"]]
    return _each_once(cards, "covers"), _each_once(cards, "does_not_cover")


def _each_once(cards: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(line for card in cards for line in lines(card.get(key))))


def lines(value: object) -> list[str]:
    """A list in a card as texts; empty for anything else."""
    return [str(line) for line in value] if isinstance(value, list) else []


def audits(runs: Sequence[RunRecord]) -> Table | None:
    """Lower bounds of audits beside the ε claimed for the attacked mechanism; None without audits."""
    rows = []
    for run in runs:
        if run.audit is None:
            continue
        verdict = str(run.audit.get("verdict", MISSING))
        head = [Text(run.path.name), Text(verdict, strong=verdict != "PASS"), upper(number(run.card.get("epsilon")))]
        found = bounds(run.audit)
        for one in found:
            value, claimed = one["value"], one["claimed"]
            share = value / claimed if value is not None and claimed and math.isfinite(value / claimed) else None
            shown = MISSING if value is None else f"{value:.3g}"
            lower = Text(shown, value, not one["passed"], "" if one["passed"] else "beyond what is claimed", share)
            name = one["name"].removeprefix("ε, ")
            rows.append([*head, Text(one["level"]), Text(name), lower, upper(claimed)])
        if not found:
            rows.append([*head, Text("bookkeeping only"), *[NOTHING] * 3])
    columns = [
        Column("run"), Column("verdict"), Column("ε of the run", True, "claimed for the whole run: no unit"),
        Column("level"), Column("attack"), Column("lower bound on ε", True, "found by the attack: no unit"),
        Column("ε claimed", True, "for what was attacked: no unit"),
    ]  # fmt: skip
    note = (
        "A lower bound above the ε claimed beside it is a fault. One far below proves no more privacy: an attack finds "
        "what it can. An attack is on one release, on some steps, or on the trained model."
    )
    return Table("audit", "Claimed ε beside audited lower bounds", columns, rows, note) if rows else None


def upper(epsilon: float | None) -> Text:
    """An upper bound as a cell, rounded up."""
    return NOTHING if epsilon is None else Text(formatting.proven(epsilon), epsilon)
