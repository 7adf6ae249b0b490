"""Level one of an audit: ledger, plan, privacy card and adapter must agree, and epsilon is recomputed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from fractions import Fraction
from typing import Any

from dpft.audit.evidence.report import Check, Level, fact
from dpft.errors import UserError
from dpft.privacy.accounting.random_search import search_rdp
from dpft.privacy.accounting.rdp import ORDERS, epsilon_of_divergences
from dpft.privacy.accounting.segments import Segment, epsilon_of
from dpft.privacy.calibration.search_noise import SHAPE
from dpft.privacy.ledger import Ledger, LedgerError, Search, ledger_exists
from dpft.privacy.ledger.storage.entries import PUBLIC
from dpft.runs.folder import Run, adapter_digest
from dpft.runs.ledger_charges import reservation_terms
from dpft.runs.privacy_card import adjacency, promise
from dpft.runs.statements import BROKEN, is_broken
from dpft.spec import Spec

_LEVEL: Level = "bookkeeping"
_PATIENCE = 300.0  # seconds before an accountant is given up; on an idle machine it needs one or two
LOOSER = "no breach: this is a looser upper bound than the one stated; ε is at most the smallest upper bound"
_ROUNDING = 1e-9  # relative: mathematical libraries of another machine round differently


def checks(run: Run, card: dict[str, Any]) -> list[Check]:
    """All checks of level one on a finished, private run. Reads no data."""
    if _tuning(card).get("charged"):
        return [*_ledger(run, card), *_plan(run, card), *_epsilon_of_search(run, card), *_adapter(run, card)]
    books = _ledger(run, card)
    charged = next((int(c.value) for c in books if c.name == "steps charged"), 0)
    return [*books, *_plan(run, card), *_epsilon(run, card, charged or run.plan.steps), *_adapter(run, card)]


def _ledger(run: Run, card: dict[str, Any]) -> list[Check]:
    if not ledger_exists(run.ledger):
        return [fact(_LEVEL, "the ledger exists", False, f"none at {run.ledger}")]
    with Ledger(run.ledger) as book:
        charged = book.charged(run.id)
        heads = [
            _verified("chain holds the run's first head", book, run.ledger_head),
            _verified("chain holds the card's head", book, str(card.get("ledger_head"))),
        ]
        if _tuning(card).get("charged"):
            return [*heads, *_searched(run, card, book)]
        return [
            *heads,
            fact(_LEVEL, "reserved as planned", book.reservation(run.id) == reservation_terms(run.plan, run.id)),
            Check(_LEVEL, "steps charged", charged, run.plan.steps, run.plan.steps, "fact", "as planned"),
            fact(_LEVEL, "card states the steps charged", card.get("steps_charged") == charged),
            fact(_LEVEL, "closed to further charges", book.is_settled(run.id)),
        ]


def _searched(run: Run, card: dict[str, Any], book: Ledger) -> list[Check]:
    """A run published by a charged search: the ledger holds one reservation for the whole search, none for the run."""
    alone = book.charged(run.id) + (book.reservation(run.id) is not None)
    asked = _search(run, card)
    return [
        fact(_LEVEL, "trials drew in secret", not is_broken(card), BROKEN if is_broken(card) else ""),
        fact(_LEVEL, "search reserved as planned", asked is not None and book.search(run.id) == asked),
        Check(_LEVEL, "charges beside the search", alone, 0, 0, "fact", "the search is charged as a whole"),
        fact(_LEVEL, "card states the steps charged", card.get("steps_charged") == run.plan.steps, "of each run"),
    ]


def _verified(name: str, book: Ledger, head: str) -> Check:
    try:
        book.verify(head)
    except LedgerError as error:
        return fact(_LEVEL, name, False, str(error))
    return fact(_LEVEL, name, True)


def _tuning(card: dict[str, Any]) -> dict[str, Any]:
    found = card.get("tuning")
    return found if isinstance(found, dict) else {}


def _search(run: Run, card: dict[str, Any]) -> Search | None:
    """The search that published this run, as the ledger should hold it; None where the card is inconsistent."""
    plan, tuning = run.plan, _tuning(card)
    if tuning.get("law") != "geometric":
        return None
    try:
        return Search(
            run.id, plan.rate, plan.noise, plan.steps, float(tuning["mean"]), SHAPE, tuning.get("draws", PUBLIC)
        )
    except (KeyError, TypeError, ValueError, OverflowError):  # a ledger's error is a ValueError
        return None


def _plan(run: Run, card: dict[str, Any]) -> list[Check]:
    """Recompute the plan from the spec and the number of units, and compare it with the card."""
    plan, spec, units = run.plan, run.spec, card.get("units")
    assert plan.budget is not None
    if not isinstance(units, int) or units < 1:
        return [fact(_LEVEL, "card states the number of units", False, f"got {units!r}")]
    if spec.epochs is None or spec.batch_size is None:
        return [fact(_LEVEL, "spec states batch size and epochs", False)]
    steps = math.ceil(Fraction(repr(float(spec.epochs))) * units / spec.batch_size)
    stated = {
        "private": True, "statement": promise(spec, plan), "adjacency": adjacency(spec), "unit": spec.unit,
        "budget": dataclasses.asdict(plan.budget), "epsilon": plan.epsilon_upper, "delta": plan.budget.delta,
        "accountant": plan.accountant, "noise": plan.noise, "clip": plan.clip, "rate": plan.rate,
        "expected_batch": plan.expected_batch, "steps_planned": plan.steps,
    }  # fmt: skip
    wrong = [key for key, value in stated.items() if card.get(key) != value]
    return [
        fact(_LEVEL, "sampling rate is batch size / units", plan.rate == spec.batch_size / units),
        fact(_LEVEL, "divisor is the batch size", plan.expected_batch == spec.batch_size),
        Check(_LEVEL, "steps planned", plan.steps, steps, steps, "fact", "ceil(epochs * units / batch size)"),
        fact(_LEVEL, "clipping norm is the spec's", (plan.clip, plan.clipping) == (spec.clip, spec.clipping)),
        fact(_LEVEL, "card states the plan", not wrong, ", ".join(wrong)),
        fact(_LEVEL, "delta below 1 / units", plan.budget.delta < 1 / units),
    ]


def _epsilon(run: Run, card: dict[str, Any], charged: int) -> list[Check]:
    """Epsilon of the `charged` steps, each accountant in its own process, compared with the card."""
    plan = run.plan
    assert plan.budget is not None
    stated = card.get("epsilon")
    high = float(stated) if isinstance(stated, (int, float)) else 0.0
    try:
        found = epsilon_of([Segment(plan.noise, plan.rate, charged)], plan.budget.delta, _PATIENCE)
    except UserError as error:
        return [fact(_LEVEL, "ε recomputed", False, str(error))]
    each = [_bound(name, value, high) for name, value in found.bounds.items() if value is not None]
    about = f"by {found.accountant}, at most what the card states"
    return [*_stated(found.epsilon, high, plan.budget.epsilon, about), *each]


def _bound(name: str, value: float, stated: float) -> Check:
    looser = value > stated * (1 + _ROUNDING)
    return Check(_LEVEL, f"ε by {name}", value, None, None, "figure", LOOSER if looser else "another upper bound")


def _epsilon_of_search(run: Run, card: dict[str, Any]) -> list[Check]:
    """Epsilon of the whole search, compared with the card."""
    budget, asked, stated = run.plan.budget, _search(run, card), card.get("epsilon")
    assert budget is not None
    if asked is None:
        return [fact(_LEVEL, "ε recomputed", False, "the card states no search")]
    try:
        Segment(asked.noise, asked.rate, asked.steps)  # within what accountants can do
        found = float(epsilon_of_divergences(search_rdp(asked, ORDERS), budget.delta, ORDERS))
    except (UserError, ArithmeticError) as error:
        return [fact(_LEVEL, "ε recomputed", False, str(error))]
    high = float(stated) if isinstance(stated, (int, float)) else 0.0
    return _stated(found, high, budget.epsilon, f"of the best of {asked.mean:g} runs, at most what the card states")


def _stated(found: float, stated: float, budget: float, about: str) -> list[Check]:
    return [
        Check(_LEVEL, "ε recomputed", found, 0, stated * (1 + _ROUNDING), "fact", about),
        Check(_LEVEL, "ε stated", stated, 0, budget, "fact", "at most the budget"),
    ]


def _adapter(run: Run, card: dict[str, Any]) -> list[Check]:
    found = run.read_tensors("adapter")
    about = found[1] if found else {}
    same = False
    with contextlib.suppress(TypeError, ValueError):  # UserError is one: it is another spec then
        same = Spec.from_json(json.loads(about.get("spec", "null"))) == run.spec
    return [
        fact(_LEVEL, "adapter is the card's", adapter_digest(run) == card.get("adapter_sha256"), "sha256"),
        fact(_LEVEL, "adapter is of the run's spec", same),
    ]
