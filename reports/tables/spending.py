"""Tables of the privacy spent on each population, and of how tuning was charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpft.reports.reading.cells import Setting
from dpft.reports.reading.folders import RunRecord, number
from dpft.reports.reading.formatting import MISSING
from dpft.reports.reading.frame import SEARCHED, population
from dpft.reports.reading.names import choices
from dpft.reports.tables.promises import lines, upper
from dpft.reports.tables.tables import Column, Table, Text

from dpft.runs.statements import CHOICE

Card = Mapping[str, Any]
Ledger = Sequence[Card]  # populations, as `dpft.privacy.ledger.export.report` has them


def populations(runs: Sequence[RunRecord], ledger: Ledger = ()) -> Table | None:
    """The total spending of each population, from the newest card, or from the ledger where it was read."""
    newest: dict[str, tuple[RunRecord, Card]] = {}
    for run in runs:
        about = population(run.card)
        if about and _runs(about) >= _runs(newest.get(about["id"], (run, {}))[1]):
            newest[about["id"]] = (run, about)
    in_ledger = {id for one in ledger for id in (one["id"], *one["joined"])}
    rows = [_spent(one, one["names"], one["limits"], "the ledger, now") for one in ledger]
    rows += [_spent(about, [], [], f"the card of {run.path.name}") for run, about in newest.values()
             if about["id"] not in in_ledger]  # fmt: skip
    columns = [
        Column("population"), Column("runs", True), Column("δ", True, "no unit"),
        Column("ε, all planned", True, "composition: every run was planned before the first result was seen"),
        Column("ε, chosen by results", True, "RDP filter: each run may follow from the results before it"),
        Column("limit"), Column("according to"),
    ]  # fmt: skip
    note = "Losses are composed, never summed. The first ε needs that all runs were planned before the first result."
    return Table("populations", "What each population has spent", columns, rows, note) if rows else None


def _runs(about: Card) -> float:
    runs = about.get("runs")
    return float(len(runs)) if isinstance(runs, list) else number(runs) or 0.0


def _spent(about: Card, names: Sequence[str], limits: Sequence[Card], source: str) -> list[Text]:
    both = []
    for name in ("composition", "filter"):
        part = about.get(name)
        epsilon = number(part.get("epsilon")) if isinstance(part, Mapping) else None
        both.append(Text(f"no bound: {about['reason']}") if epsilon is None and about.get("reason") else upper(epsilon))
    delta = number(about.get("delta"))
    limit = "; ".join(_limit(one, len(limits) > 1) for one in limits)
    title = f"{about['id'][:8]} ({', '.join(names)})" if names else about["id"][:8]
    return [
        Text(title), Text(f"{_runs(about):.0f}", _runs(about)), Text(MISSING if delta is None else f"{delta:g}", delta),
        *both, Text(limit or MISSING), Text(source),
    ]  # fmt: skip


def _limit(one: Card, named: bool) -> str:
    whose = f"{one['of']}: " if named else ""
    planned = ", planned" if one["planned"] else ""
    return f"{whose}ε {one['epsilon']:g} at δ {one['delta']:g}{planned}, left {one['left']:.3g}"


def charges(runs: Sequence[RunRecord], ledger: Ledger) -> Table | None:
    """All runs in the ledger on these populations, with their folders where they are among `runs`."""
    folders = {str(run.about.get("id")): run.path.name for run in runs}
    rows = [
        [
            Text(population["id"][:8]), Text(folders.get(one["run"], f"{one['run'][:12]}, not in this report")),
            Text(one["time"][:19].replace("T", " ")), Text(f"{one['charged']:,}", one["charged"]),
            Text(f"{one['steps']:,}", one["steps"]),
            Text(f"{one['noise']:.4g}", one["noise"]), Text(f"{one['rate']:.4g}", one["rate"]), Text(one["label"]),
            Text("settled" if one["settled"] else "open, counts whole"),
        ]
        for population in ledger for one in population["runs"]
    ]  # fmt: skip
    columns = [
        Column("population"), Column("run"), Column("reserved (UTC)"), Column("steps charged", True),
        Column("steps reserved", True), Column("noise multiplier σ", True, "in units of the clip"),
        Column("sampling rate q", True, "probability to be in a batch"), Column("(ε, δ) alone"), Column("state"),
    ]  # fmt: skip
    return Table("ledger", "The ledger of each population", columns, rows) if rows else None


def tuned(settings: Sequence[Setting], runs: Sequence[RunRecord]) -> Table | None:
    """Hyper-parameters that took several values within one method, and how the choice was charged."""
    cards = {run.path.name: run.card for run in runs if run.state == "finished"}
    rows = []
    for setting in settings:
        for method in dict.fromkeys(series.method for series in setting.series):
            like = [series for series in setting.series if series.method == method]
            names = [name for series in like for cell in series.cells for name in cell.runs]
            private = [cards[name] for name in names if cards[name]["private"]]
            rows.append([
                Text(setting.title), Text(method), Text(_varied([choices(series.chosen) for series in like])),
                Text(str(len(like)), len(like)), Text(str(len(private)), len(private)),
                Text(_population(private)), Text(_covered(private)),
            ])  # fmt: skip
    columns = [
        Column("setting"), Column("method"), Column("what varied"), Column("choices", True),
        Column("private runs", True), Column("each charged to"), Column("choice covered by a run's own ε"),
    ]  # fmt: skip
    note = (
        "Who chose among private runs by their results has spent what their population has, by the filter (above). "
        "Only runs of this report are seen: what was tried elsewhere is not in it."
    )
    return Table("tuning", "What was tuned, and how that was charged", columns, rows, note) if rows else None


def _varied(everyone: Sequence[Card]) -> str:
    keys = dict.fromkeys(key for one in everyone for key in one)
    values = {key: list(dict.fromkeys(str(one.get(key, "default")) for one in everyone)) for key in keys}
    return (
        "; ".join(f"{key}: {', '.join(found)}" for key, found in values.items() if len(found) > 1 or SEARCHED in found)
        or "nothing"
    )


def _population(private: Sequence[Card]) -> str:
    known = sorted({str(population(card).get("id", "none"))[:8] for card in private})
    return f"population {', '.join(known)}" if known else MISSING


def _covered(private: Sequence[Card]) -> str:
    """Whether the cards' ε covers the choice."""
    tuned = list(dict.fromkeys(str(card["tuning"].get("statement")) for card in private if _is_tuned(card)))
    if tuned and all(_is_tuned(card) for card in private):
        charged = all(card["tuning"].get("charged") is True for card in private)
        return f"{'yes' if charged else 'no'}: {'; '.join(tuned)}"
    if len(private) < 2:
        return "nothing to choose among" if private else "nothing is private"
    says = [CHOICE in lines(card.get("does_not_cover")) for card in private]
    return "no, says each card" if all(says) else "no, says some card" if any(says) else "see privacy.json"


def _is_tuned(card: Card) -> bool:
    return isinstance(card.get("tuning"), Mapping)
