"""Faults in a user's own files: one line and exit code 2, nobody's text, nothing spent, nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.world import BUDGET, PLANTED, World

WHOLE = "text,label,who\n" + "".join(f"{PLANTED} {i},{'ab'[i % 2]},{i % 90}\n" for i in range(200))


@dataclass(frozen=True)
class Fault:
    """What own.csv and held.csv hold, which words are added to the command, and what the refusal says."""

    said: str
    own: str | bytes = WHOLE
    held: str | bytes = WHOLE
    words: tuple[str, ...] = ()


def row(line: str) -> str:
    """The whole table with another third line."""
    lines = WHOLE.splitlines(keepends=True)
    return "".join([*lines[:2], line, *lines[3:]])


FAULTS = {
    "no such file": Fault("which is not there", words=("--data", "nowhere.csv")),
    "no such folder or hub id": Fault("could not be fetched", words=("--data", "some/where")),
    "another format": Fault("must be a file in", words=("--data", "model/config.json")),
    "no text named": Fault("text must be a name", words=("--text", "")),
    "columns of another task": Fault("only the task files takes", words=("--task", "glue/sst2")),
    "a column that is absent": Fault("none named 'body'", words=("--text", "body")),
    "a pair that is absent": Fault("none named 'reply'", words=("--pair", "reply")),
    "a label that is absent": Fault("none named 'team'", words=("--label", "team")),
    "one column twice": Fault("must be different columns", words=("--label", "text")),
    "a unit that is absent": Fault("none named 'person'", words=("--unit", "person")),
    "a unit that is missing": Fault("no name or number in line 3", row(f"{PLANTED},b,\n"), words=("--unit", "who")),
    "no header": Fault("none named 'text' among 3", WHOLE.partition("\n")[2]),
    "an empty file": Fault("none named 'text' among 0", b""),
    "a header alone": Fault("at least one row", "text,label,who\n"),
    "nothing to judge by": Fault("at least one row", held="text,label,who\n"),
    "a broken row": Fault("got 4 in line 3", row(f"{PLANTED},{PLANTED},b,1\n")),
    "an open quote": Fault("closed quotes", row(f'"{PLANTED},b,1\n')),
    "another encoding": Fault("other bytes in line 3", row(f"{PLANTED} é,b,1\n").encode("latin-1")),
    "UTF-16": Fault("other bytes in line 1", WHOLE.encode("utf-16")),
    "a label that is missing": Fault("a label, got none in line 3", row(f"{PLANTED},,1\n")),
    "a label to judge by that is new": Fault("another in line 3 of held.csv", held=row(f"x,{PLANTED},1\n")),
    "a label that was not stated": Fault("another in line 3 of own.csv", words=("--labels", "a,c")),
    "labels stated twice": Fault("at least two different names", words=("--labels", "a,a")),
    "one label alone": Fault("2 to 100 different names, got 1", WHOLE.replace(",b,", ",a,")),
    "a label for every row": Fault("2 to 100 different names, got more", words=("--label", "text", "--text", "who")),
    "a score that is none": Fault("finite number, got another in line 2", words=("--kind", "regression")),
    "labels of a score": Fault("its lowest and highest", words=("--kind", "regression", "--labels", "a,b")),
    "a kind that is none": Fault("kind must be one of", words=("--kind", "ranking")),
    "canaries among many labels": Fault("one label a row", words=("--kind", "multi-label", "--canaries", "8")),
    "a held-out file that is absent": Fault("which is not there", words=("--validation", "gone.csv")),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_own_data_is_one_line_that_spends_nothing_and_shows_nobody(world: World, name: str) -> None:
    fault = FAULTS[name]
    for file, content in (("own.csv", fault.own), ("held.csv", fault.held)):
        Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())
    asked = {"--data": "own.csv", "--text": "text", "--label": "label", "--validation": "held.csv"}
    given = [word for flag, value in asked.items() if flag not in fault.words for word in (flag, value)]
    words = (
        "train", "--model", world.model, "--batch-size", 40, "--epochs", 1, "--max-length", 32, "--precision", "fp32",
        "--option", "dim=8", "--runs", world.home / "new", *BUDGET, *given, *fault.words,
    )  # fmt: skip
    world.assert_refused(fault.said, lambda: world.call(*words))
