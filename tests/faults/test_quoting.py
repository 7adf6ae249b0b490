"""What is passed where a value belongs may be somebody's rows: an error says its type, never its content."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pandas as pd
import pytest

from dpft import Budget, Spec, UserError

SECRET = "the patient of room seven"
TABLE = pd.DataFrame({"text": [SECRET] * 3})
WRONG = [TABLE, TABLE["text"], [SECRET] * 3, {"rows": [SECRET]}, SECRET * 20, (SECRET,)]


def refused(name: str, value: Any) -> list[str]:
    """What a Spec, or a Budget, with that value says; nothing where it takes it."""
    said = []
    with contextlib.suppress(UserError):
        try:
            if name in ("epsilon", "delta"):
                Budget(**{"epsilon": 1.0, "delta": 1e-6, name: value})
            else:
                Spec(**{name: value})
        except UserError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("value", WRONG, ids=["table", "column", "list", "mapping", "long text", "tuple"])
@pytest.mark.parametrize("name", [*(field.name for field in dataclasses.fields(Spec)), "epsilon", "delta"])
def test_rows_passed_where_a_value_belongs_are_not_quoted(name: str, value: Any) -> None:
    """Catches: `got {found!r}` of a table, which prints its first and last rows; a raw error of pandas."""
    for said in refused(name, value):
        assert SECRET not in said
        assert "\n" not in said


def test_a_table_as_data_is_refused_by_its_type() -> None:
    assert refused("data", TABLE) == ["data must be a file or a folder, got a DataFrame; pass --data PATH"]
