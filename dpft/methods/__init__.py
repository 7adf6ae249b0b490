"""Methods, discovered in this folder: a file with a METHOD is a method with the file's name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, get_type_hints

from dpft.errors import UserError
from dpft.models.adapted import CannotMerge, Method

__all__ = ["CannotMerge", "Method", "describe", "load", "method_class", "names"]


def names() -> list[str]:
    """All methods by name, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def method_class(name: str) -> Any:
    """The dataclass behind a method's name. Raises UserError for an unknown name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else "see `dpft methods`"
        raise UserError(f"the method must be one of {', '.join(names())}, got {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{name}").METHOD


def load(name: str, options: Mapping[str, Any]) -> Method:
    """The method with its options set. Option values may be strings from a command line."""
    cls = method_class(name)
    if hasattr(cls, "from_options"):  # its options are more than its fields
        made: Method = cls.from_options(options)
        return made
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(options) - set(fields))
    if unknown:
        known = ", ".join(fields) or "none"
        raise UserError(f"the options of {name} are {known}, got {', '.join(unknown)}; see `dpft methods {name}`")
    hints = get_type_hints(cls)
    method: Method = cls(**{key: _convert(key, value, hints[key]) for key, value in options.items()})
    return method


def describe(name: str) -> dict[str, Any]:
    """Name, one-line summary, full text, options with defaults, and a row of the paper's table 1 of a method."""
    cls = method_class(name)
    summary, _, details = inspect.cleandoc(cls.__doc__).partition("\n\n")
    options = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    about = {"name": name, "summary": summary, "details": details, "options": options}
    return {**about, "non_private_rate": cls.non_private_rate, **dataclasses.asdict(cls.traits)}


def head_alone(method: Method) -> bool:
    """Whether the method trains the head alone."""
    return bool(getattr(method, "head_alone", False))


def _convert(key: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`: int, float, bool, or the string itself for names."""
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind)
    text = str(value).lower()
    try:
        if kind is bool:
            return {"true": True, "false": False}[text]
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        return kind(value) if kind in (int, float) else str(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"option {key} must be {wanted}, got {value!r}; pass --option {key}=...") from None
