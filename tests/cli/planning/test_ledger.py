"""dpft ledger: what it shows, limits, verifies and exports; and what it refuses in one line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dpft.privacy.ledger import Event, Ledger
from tests.calling import Command
from tests.postgres_server import PASSWORD

TERMS: dict[str, Any] = {"rate": 0.1, "noise": 0.9, "steps": 4, "delta": 1e-5, "epsilon": 5.0}
TEXTS = [f"record number {i}" for i in range(100)]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def filled(dpft: Command) -> str:
    """The default ledger, with one settled run of the population `team`. Its head."""
    with Ledger("ledger.sqlite") as book:
        book.reserve("run-1", **TERMS, data_identity=book.data_identity(TEXTS, None, "team"))
        for step in range(4):
            book.charge(Event("run-1", step, 0.1, 0.9))
        book.settle("run-1")
        return book.head()


def refused(outcome: tuple[int, str, str], *words: str) -> None:
    code, out, err = outcome
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.fullmatch(r"dpft: .+, got .+; .+", err.strip()), err
    assert all(word in err for word in words), err


def test_show_names_population_runs_both_bounds_and_what_each_assumes(dpft: Command, filled: str) -> None:
    assert dpft("ledger", "limit", "team", "--epsilon", 9, "--delta", 1e-5)[0] == 0
    code, out, err = dpft("ledger", "show", "team")
    assert (code, err) == (0, "")
    assert "(team)" in out
    assert re.search(r"ε 5 at δ 1e-05 by composition; assumes that all runs were planned", out)
    assert re.search(r"ε [\d.]+ at δ 1e-05 by the RDP filter; assumes nothing", out)
    assert re.search(r"limit +ε 9 at δ 1e-05, .*left about ε [\d.]+", out)
    assert "run-1" in out
    assert "4/4 steps" in out
    code, out, _ = dpft("ledger", "show", "--json")
    found = json.loads(out)
    assert found["head"] != filled
    (one,) = found["populations"]
    assert (one["names"], one["composition"]["epsilon"], one["limits"][0]["epsilon"]) == (["team"], 5.0, 9)


def test_limit_makes_a_named_population_that_awaits_its_data(dpft: Command) -> None:
    code, out, err = dpft("ledger", "limit", "patients", "--epsilon", 8, "--delta", 1e-6, "--planned", "--new")
    assert (code, err) == (0, "")
    assert "(patients): at most ε 8 at δ 1e-06" in out
    assert "dpft train --population patients" in out
    assert dpft("ledger", "show", "pat")[0] == 0
    refused(dpft("ledger", "limit", "patients", "--epsilon", -1, "--delta", 1e-6), "--epsilon")
    refused(dpft("ledger", "limit", "pa\nt", "--epsilon", 1, "--delta", 1e-6, "--new"), "printable name")


def test_a_limit_that_is_exceeded_already_is_told_and_one_can_be_lifted(dpft: Command, filled: str) -> None:
    """Catches: a limit below what is spent, taken in silence; a slip that makes a population of its own."""
    code, out, err = dpft("ledger", "limit", "team", "--epsilon", 2, "--delta", 1e-5)
    assert (code, err) == (0, "")
    assert re.search(r"warning +ε 5 is spent already by composition, beyond the limit of team: nothing more fits", out)
    assert "is spent already" in dpft("ledger", "show", "team")[1]
    refused(dpft("ledger", "limit", "teem", "--epsilon", 2, "--delta", 1e-5), "did you mean 'team'", "--new")
    refused(dpft("ledger", "limit", "team", "--epsilon", 2), "pass --epsilon and --delta")
    refused(dpft("ledger", "limit", "team", "--lift", "--epsilon", 2), "set or lifted")
    assert "is lifted, 0 left" in dpft("ledger", "limit", "team", "--lift")[1]
    refused(dpft("ledger", "limit", "team", "--lift"), "only a limit that is set can be lifted")


def test_verify_finds_heads_and_misses_those_of_another_ledger(dpft: Command, filled: str) -> None:
    code, out, _ = dpft("ledger", "verify", "--head", filled)
    assert code == 0
    assert filled in out
    refused(dpft("ledger", "verify", "--head", "1" * 64), "must contain the expected head")
    run = Path("run")
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"ledger_head": filled}))
    assert dpft("ledger", "verify", run)[0] == 0
    (run / "privacy.json").write_text(json.dumps({"ledger_head": "2" * 64}))
    refused(dpft("ledger", "verify", run), "2222")
    (run / "run.json").write_text("[]")
    refused(dpft("ledger", "verify", run), "a run must be a folder with its run.json")


def test_export_writes_the_chain_without_key_and_sketches(dpft: Command, filled: str) -> None:
    code, out, _ = dpft("ledger", "export")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["hash"] == filled
    assert dpft("ledger", "export", "chain.jsonl") == (0, "", "")
    assert Path("chain.jsonl").read_text() == out
    refused(dpft("ledger", "export", "no/such/folder/chain.jsonl"), "writable")


def test_what_is_no_ledger_or_no_population_is_refused(dpft: Command, filled: str) -> None:
    for verb in ("show", "verify", "export"):
        refused(dpft("ledger", verb, "--ledger", "nowhere.sqlite"), "there must be a ledger")
    assert not Path("nowhere.sqlite").exists()
    refused(dpft("ledger", "show", "nobody"), "known: ", "(team)")
    Path("notes.txt").write_text("no database at all\n" * 100)
    refused(dpft("ledger", "show", "--ledger", "notes.txt"), "not a database")


def test_a_urls_password_is_in_no_message(dpft: Command) -> None:
    for url in (f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/d", f"mysql://u:{PASSWORD}@h/d", f"x://{PASSWORD}"):
        outcome = dpft("ledger", "show", "--ledger", url)
        refused(outcome)
        assert PASSWORD not in outcome[2]


def test_help_loads_neither_torch_nor_sqlalchemy() -> None:
    import subprocess

    code = (
        "import sys\nfrom dpft.cli import main\nsys.argv = ['dpft', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('loaded:', *(m for m in ('torch', 'sqlalchemy', 'numpy', 'psycopg') if m in sys.modules))"
    )
    for words in (["--help"], ["ledger", "--help"], ["ledger", "show", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith("loaded:")
