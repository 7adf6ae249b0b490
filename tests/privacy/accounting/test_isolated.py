"""A call that hangs, dies or hoards is skipped in time, and leaves no process behind."""

from __future__ import annotations

import time

import pytest

from dpft.privacy.accounting import isolated


def test_the_result_is_the_functions_and_every_call_has_its_own_process() -> None:
    found = isolated.run({"a": ("math:hypot", [3, 4]), "b": ("os:getpid", []), "c": ("os:getpid", [])}, 30)
    assert found["a"] == 5.0
    assert found["b"] != found["c"]


def test_a_call_that_hangs_is_skipped_in_time_and_the_others_answers_are_kept() -> None:
    started = time.monotonic()
    found = isolated.run({"hangs": ("time:sleep", [60]), "answers": ("math:sqrt", [4])}, 5)
    assert found == {"hangs": None, "answers": 2.0}
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "call",
    [
        ("math:sqrt", [-1]), ("os:_exit", [3]), ("os:abort", []), ("math:no_such", []), ("no_such:f", []),
        ("builtins:bytearray", [2 * isolated.MEMORY]), ("builtins:object", []), ("builtins:float", ["nan"]),
        ("builtins:float", ["inf"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_call_that_fails_dies_hoards_memory_or_gives_no_number_is_none(call: isolated.Call) -> None:
    assert isolated.run({"bad": call}, 30) == {"bad": None}


def test_no_process_is_left_where_the_caller_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = isolated._start

    def watched(call: isolated.Call) -> object:
        started.append(start(call))
        return started[-1]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(isolated, "_start", watched)
    monkeypatch.setattr(isolated, "_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        isolated.run({"hangs": ("time:sleep", [60])}, 60)
    assert [process.returncode for process in started] == [-9]
