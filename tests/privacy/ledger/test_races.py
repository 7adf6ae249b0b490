"""Of two who ask at once for budget that is enough for one, exactly one gets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dpft.privacy.ledger import Ledger

# Loaded once, then forked for each racer: a trial takes no more than its transactions. The limit leaves room for a
# second run, and not for a third.
RACES = """
import json, multiprocessing, os, sys
from dpft.privacy.ledger import Ledger, OverLimit
from dpft.privacy.ledger.storage.entries import Limit
from dpft.privacy.ledger.composition import Spending
place, trials, racers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
terms = dict(rate=0.1, noise=0.9, steps=10, delta=1e-5, epsilon=5.0)
one = (0.9, 0.1, 10)
room = Spending(((0.9, 0.1, 20),), runs=2, each=frozenset({one})).bound(Limit(1.0, 1e-5)) * 1.001

def race(trial, texts, me, barrier, out):
    with Ledger(place) as book:
        data_identity = book.data_identity(texts)
        barrier.wait()
        try:
            book.reserve(f"{trial} racer {me}", **terms, data_identity=data_identity)
            out.put("started")
        except OverLimit:
            out.put("refused")

fork, outcomes = multiprocessing.get_context("fork"), []
for trial in range(trials):
    texts = [f"trial {trial} record {i}" for i in range(50)]
    with Ledger(place) as book:
        book.reserve(f"{trial} first", **terms, data_identity=book.data_identity(texts, None, f"trial {trial}"))
        book.limit(f"trial {trial}", epsilon=room, delta=1e-5)
    barrier, out = fork.Barrier(racers), fork.Queue()
    children = [fork.Process(target=race, args=(trial, texts, me, barrier, out)) for me in range(racers)]
    for child in children: child.start()
    outcomes.append(sorted(out.get(timeout=60) for _ in children))
    for child in children: child.join()
print(json.dumps(outcomes))
"""


def races(place: str, trials: int, racers: int) -> list[list[str]]:
    command = [sys.executable, "-c", RACES, place, str(trials), str(racers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("trials", "racers"),
    [
        (3, 2),
        pytest.param(100, 2, marks=[pytest.mark.slow, pytest.mark.timeout(1600)]),
        pytest.param(10, 5, marks=[pytest.mark.slow, pytest.mark.timeout(1600)]),
    ],
)
def test_of_those_who_race_for_budget_enough_for_one_exactly_one_starts(place: str, trials: int, racers: int) -> None:
    """Catches: a decision outside the transaction that nobody repeats inside it (drop the comparison in `_declare`)."""
    assert races(place, trials, racers) == [["refused"] * (racers - 1) + ["started"]] * trials
    with Ledger(place) as book:
        book.verify()
        assert {len(one.runs) for one in book.view().populations.values()} == {2}
