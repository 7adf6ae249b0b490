"""How privacy is put into words, everywhere alike: on cards, on screens, in reports."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, localcontext

NOT_PRIVATE = "NOT PRIVATE"
VALIDATION = "the validation figures: computed on the validation rows without noise"
CHOICE = "the choice of hyper-parameters, where they were chosen by looking at this training data"


def rounded_up(epsilon: float) -> str:
    """`epsilon` to four significant digits, rounded up."""
    with localcontext(prec=4, rounding=ROUND_CEILING):
        return f"{+Decimal(epsilon):f}"
