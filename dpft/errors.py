"""Errors of one line for the user, and which values such a line may quote."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

_MOST_SHOWN, _FEW = 200, 8


class UserError(ValueError):
    """A mistake of the caller. The message is one line: the rule, what was found, and the remedy."""


def require(ok: bool, rule: str, found: object, remedy: str) -> None:
    """Raise UserError unless `ok`. `found` is quoted through `shown`."""
    if not ok:
        raise UserError(f"{rule}, got {shown(found)}; {remedy}")


def shown(value: object) -> str:
    """`value` as an error may quote it: numbers, short strings and short lists; the type of anything else.

    So that rows never reach a log when somebody passes data where a name belongs.
    """
    if _is_plain(value):
        return repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= _MOST_SHOWN else f"a text of {len(value):,} characters"
    if isinstance(value, (list, tuple)):
        few = len(value) <= _FEW and all(map(_is_plain, value))
        return repr(value) if few else f"a {type(value).__name__} of {len(value):,}"
    if dataclasses.is_dataclass(value) and all(_is_plain(getattr(value, f.name)) for f in dataclasses.fields(value)):
        return repr(value)  # a Budget
    return f"a {type(value).__name__}"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def is_positive(value: object) -> bool:
    """True for a finite number above zero; False for NaN, infinities, booleans and non-numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0


def is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def are_numbers(value: object) -> bool:
    """True for a non-empty mapping whose values are all finite numbers above zero."""
    return isinstance(value, Mapping) and len(value) > 0 and all(map(is_positive, value.values()))


def require_one_of(value: object, choices: tuple[str, ...], name: str) -> None:
    known = isinstance(value, str) and value in choices
    require(known, f"{name} must be one of {', '.join(choices)}", value, f"pass --{name}")


def require_name(value: object, flag: str) -> None:
    require(isinstance(value, str) and value != "", f"{flag} must be a name", value, f"pass --{flag}")


def require_whole(value: object, least: int, rule: str, remedy: str) -> None:
    require(is_whole(value, least), rule, value, remedy)
