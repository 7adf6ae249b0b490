"""The command as a user calls it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from dpft.cli import main

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


def call(
    monkeypatch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
    *words: object,
) -> Outcome:
    """(exit code, stdout, stderr) of `dpft WORDS`."""
    monkeypatch.setattr(sys, "argv", ["dpft", *map(str, words)])
    capture.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capture.readouterr()
    return int(caught.value.code or 0), out, err
