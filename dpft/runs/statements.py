"""The wording of privacy statements, shared by cards, screens and reports."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

NOT_PRIVATE = "NOT PRIVATE"
VALIDATION = "the validation figures: computed on the validation rows without noise"
CHOICE = "the choice of hyper-parameters, where they were chosen by looking at this training data"

BROKEN = (
    "THE PROMISE DOES NOT HOLD: the learning rate of this search's best run was drawn from a public sequence and tells "
    "the run's number, so that the bound on epsilon is not valid; train anew"
)


def is_broken(card: Mapping[str, Any]) -> bool:
    """Whether a card is from a charged search of an earlier version, which drew its trials from a public sequence."""
    tuning = card.get("tuning")
    return isinstance(tuning, Mapping) and bool(tuning.get("charged")) and tuning.get("draws") != "secret"


def stated(card: Mapping[str, Any]) -> str:
    """The statement of a privacy card, with a warning if it no longer holds."""
    return f"{BROKEN} (it said: {card['statement']})" if is_broken(card) else str(card["statement"])


def rounded_up(epsilon: float) -> str:
    """`epsilon` to four significant digits, rounded up."""
    with localcontext(prec=4, rounding=ROUND_CEILING):
        return f"{+Decimal(epsilon):f}"
