"""The spec's JSON: what was written before reads on, and what was not asked for leaves no trace in a digest."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from dpft.errors import UserError
from dpft.spec import Budget, Spec, canonical_json, own_data_task


def test_later_fields_are_not_in_the_json_at_their_defaults_so_that_older_digests_hold() -> None:
    spec = Spec(task="files", data="rows.csv", text="text", label="label", budget=Budget(8.0, 1e-5))
    digest = hashlib.sha256(canonical_json(spec.to_json()).encode()).hexdigest()
    assert (
        digest == "d8b22d0e32c4df062610af2d73605e4fd0ac975f0548fa0993d1f9a1a24a3a03"
    )  # of the version before texts were written


@pytest.mark.parametrize(
    "more", [{"prompt": "a"}, {"messages": "a"}, {"max_windows": 3}, {"token_loss": "sum"}], ids=str
)
def test_fields_of_texts_to_write_are_kept(more: dict[str, Any]) -> None:
    spec = Spec(task="text/files", **more)
    assert more.items() <= spec.to_json().items()
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("more", "flag"),
    [({"prompt": ""}, "prompt"), ({"messages": 3}, "messages"), ({"max_windows": 0}, "max-windows"),
     ({"max_windows": 1.5}, "max-windows"), ({"max_windows": True}, "max-windows"),
     ({"token_loss": "median"}, "token-loss"), ({"token_loss": None}, "token-loss")],
)  # fmt: skip
def test_what_they_cannot_be_is_refused_by_its_flag(more: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=rf"{flag}.*, got .*--{flag}"):
        Spec(**more)


def test_ones_own_data_are_texts_to_write_where_a_column_says_so() -> None:
    assert own_data_task(("data", "text", "label")) == "files"
    assert own_data_task(("data", "text", "prompt")) == own_data_task(("messages",)) == "text/files"
