"""The ledger in a file: nothing is released uncharged, nothing charged is lost, no change goes unseen."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft.errors import UserError
from dpft.privacy.ledger import GENESIS, Event, Ledger, LedgerError, Reservation, default_ledger_place
from dpft.privacy.ledger.storage.sqlite import SqliteStore
from dpft.spec import canonical_json

TERMS: dict[str, Any] = {"rate": 0.1, "noise": 0.9, "steps": 10, "delta": 1e-5, "epsilon": 6.7}
EVENT = Event("a", 0, rate=0.1, noise=0.9)

# Each child waits for a line on its standard input, so that all start together.
CHILD = """
import os, resource, sys
from pathlib import Path
from dpft.privacy.ledger import Event, Ledger, LedgerError
def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
path, run, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
say("ready")
sys.stdin.readline()
"""
CHARGE_IN_TURN = """
with Ledger(path) as ledger:
    for step in range(ledger.next_step(run), steps):
        ledger.charge(Event(run, step, 0.1, 0.9))
        say(step)
"""
CHARGE_WHAT_OTHERS_LEAVE = """
with Ledger(path) as ledger:
    for step in range(steps):
        try:
            ledger.charge(Event(run, step, 0.1, 0.9))
            say(step)
        except LedgerError as error:
            assert "a step is charged once" in str(error), error
"""
RESERVE_AND_CHARGE = """
with Ledger(path) as ledger:
    ledger.reserve(run, rate=0.1, noise=0.9, steps=steps, delta=1e-5, epsilon=1.0)
    for step in range(steps):
        ledger.charge(Event(run, step, 0.1, 0.9))
        say(step)
    ledger.settle(run)
"""
CHARGE_UNTIL_THE_DISK_IS_FULL = """
ledger = Ledger(path)
log = os.path.getsize(str(path) + "-wal")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (log + 100_000, hard))
for step in range(steps):
    try:
        ledger.charge(Event(run, step, 0.1, 0.9))
    except LedgerError as error:
        break
    say(step)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ledger.verify()
ledger.charge(Event(run, ledger.next_step(run), 0.1, 0.9))
say("went on")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        opened.reserve("a", **TERMS)
        yield opened


def raw(ledger: Ledger) -> sqlite3.Connection:
    """The driver's own connection."""
    found = ledger.store._connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found


def start(script: str, path: Path, run: str, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD + script, str(path), run, str(steps)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def said(child: subprocess.Popen[str], exit_code: int = 0) -> list[str]:
    out, _ = child.communicate(timeout=60)
    assert child.returncode == exit_code
    return out.split("\n")[:-1]  # a last word cut off by a kill was not said


def tamper(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TRIGGER entry_no_update")
        raw.execute("DROP TRIGGER entry_no_delete")
        for statement in statements:
            raw.execute(statement)
    raw.close()


def rewrite(path: Path, first: int, last: int) -> None:
    """Edit row `first`, then recompute hash and prev up to row `last`, as a forger without the head would."""
    tamper(path, f"UPDATE entry SET body = replace(body, '0.9', '9.0') WHERE seq = {first}")
    with sqlite3.connect(path) as raw:
        for seq in range(first, last + 1):
            body, prev = raw.execute("SELECT body, prev FROM entry WHERE seq = ?", (seq,)).fetchone()
            digest = hashlib.sha256(f"{prev}\n{body}".encode()).hexdigest()
            raw.execute("UPDATE entry SET hash = ? WHERE seq = ?", (digest, seq))
            raw.execute("UPDATE entry SET prev = ? WHERE seq = ?", (digest, seq + 1))
    raw.close()


def fill(ledger: Ledger, steps: int = 10) -> str:
    for step in range(steps):
        ledger.charge(replace(EVENT, step=step))
    return ledger.head()


# What it records


def test_an_empty_ledger_has_the_genesis_head_and_verifies(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.head() == GENESIS
        assert (ledger.charged("a"), ledger.next_step("a"), ledger.reservation("a")) == (0, 0, None)
        ledger.verify()
        ledger.verify(head=GENESIS)


def test_a_reopened_ledger_remembers_every_charge_and_its_terms(path: Path) -> None:
    """Catches: state kept in memory; floats that lose digits on the way to disk."""
    terms = {**TERMS, "rate": 1 / 3, "noise": 0.1 + 0.2}
    for run in ("a", "naïve run 雪 😀"):
        with Ledger(path) as ledger:
            ledger.reserve(run, **terms)
            ledger.charge(Event(run, 0, terms["rate"], terms["noise"]))
        with Ledger(path) as ledger:
            ledger.charge(Event(run, 1, terms["rate"], terms["noise"]))
            assert ledger.reservation(run) == Reservation(run, **terms)
            assert (ledger.charged(run), ledger.next_step(run)) == (2, 2)
            assert not ledger.is_settled(run)
            ledger.verify()


def test_a_gap_in_the_steps_counts_charges_but_resumes_after_the_last(ledger: Ledger) -> None:
    """Catches: resuming at the number of charges, which would release step 7 twice."""
    for step in (0, 7):
        ledger.charge(replace(EVENT, step=step))
    assert (ledger.charged("a"), ledger.next_step("a")) == (2, 8)


def test_each_row_hashes_the_row_before_it_and_its_own_body(ledger: Ledger) -> None:
    """Catches: a hash without prev; a body that is not canonical; a field beyond those charged."""
    fill(ledger, 3)
    ledger.settle("a")
    last = GENESIS
    for seq, kind, body, prev, digest in raw(ledger).execute("SELECT seq, kind, body, prev, hash FROM entry"):
        value = json.loads(body)
        assert prev == last
        assert digest == hashlib.sha256(f"{prev}\n{body}".encode()).hexdigest()
        assert (value["seq"], value["kind"], canonical_json(value)) == (seq, kind, body)
        if kind == "charge":
            assert set(value) == {"kind", "noise", "rate", "run", "seq", "step", "time"}
        last = digest
    assert ledger.head() == last


def test_every_commit_is_synced_to_disk_and_only_full_checkpoints_run(ledger: Ledger) -> None:
    """Catches: synchronous = NORMAL, under which a power cut undoes charges that had returned."""
    pragmas = ("journal_mode", "synchronous", "fullfsync", "wal_autocheckpoint", "busy_timeout")
    found = [raw(ledger).execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert found[:4] == ["wal", 2, 1, 0]
    assert found[4] >= 10_000


def test_the_write_ahead_log_stays_small_over_a_long_run(ledger: Ledger, path: Path) -> None:
    """Catches: automatic checkpoints off and no checkpoint in their place."""
    ledger.reserve("long", **{**TERMS, "steps": 1500})
    raw(ledger).execute("PRAGMA synchronous = OFF")  # for the test's speed only
    for step in range(1500):
        ledger.charge(Event("long", step, 0.1, 0.9))
    assert Path(f"{path}-wal").stat().st_size < 8_000_000
    ledger.verify()


def test_lookups_use_the_index(ledger: Ledger) -> None:
    """Catches: a scan of the whole ledger at every charge."""
    asked: list[str] = []
    raw(ledger).set_trace_callback(asked.append)
    ledger.charge(EVENT)
    _ = ledger.next_step("a"), ledger.charged("a")
    raw(ledger).set_trace_callback(None)
    selects = [sql for sql in asked if sql.startswith("SELECT") and "WHERE" in sql]
    assert len(selects) == 4
    for sql in selects:
        plan = raw(ledger).execute(f"EXPLAIN QUERY PLAN {sql}").fetchone()[3]
        assert "USING" in plan
        assert "(run=? AND kind=?)" in plan


# Tampering


@pytest.mark.parametrize(
    ("statements", "row"),
    [
        (["UPDATE entry SET body = replace(body, '0.9', '9.0') WHERE seq = 4"], 4),
        (["UPDATE entry SET body = replace(body, '\"step\":2', '\"step\":5000') WHERE seq = 4"], 4),
        (["UPDATE entry SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE seq = 4"], 4),
        (["UPDATE entry SET prev = hash WHERE seq = 4"], 4),
        (["UPDATE entry SET hash = 'x' WHERE seq = 11"], 11),
        (["UPDATE entry SET body = body || ' ' WHERE seq = 1"], 1),
        (["DELETE FROM entry WHERE seq = 4"], 4),
        (["DELETE FROM entry WHERE seq = 1"], 1),
        (["DELETE FROM entry WHERE seq = 4", "UPDATE entry SET seq = seq - 1 WHERE seq > 4"], 4),
        (["UPDATE entry SET seq = 999 WHERE seq = 4"], 4),
        (["UPDATE entry SET seq = 0 WHERE seq = 1"], 1),
        (
            [
                "UPDATE entry SET seq = -1 WHERE seq = 4",
                "UPDATE entry SET seq = 4 WHERE seq = 5",
                "UPDATE entry SET seq = 5 WHERE seq = -1",
            ],
            4,
        ),
    ],
    ids=[
        "noise", "step", "hash", "prev", "last hash", "reservation", "delete", "delete first",
        "delete and renumber", "move to the end", "renumber", "swap",
    ],
)  # fmt: skip
def test_a_changed_row_is_named(ledger: Ledger, path: Path, statements: list[str], row: int) -> None:
    fill(ledger)
    tamper(path, *statements)
    with pytest.raises(LedgerError, match=f"row {row} of the ledger"):
        ledger.verify()


def test_an_edit_whose_own_hash_and_link_are_mended_is_found_one_row_later(ledger: Ledger, path: Path) -> None:
    """Catches: a hash without prev, where mending one row and one link hides the edit."""
    fill(ledger)
    rewrite(path, first=4, last=4)
    with pytest.raises(LedgerError, match="row 5 of the ledger"):
        ledger.verify()


def test_a_ledger_rewritten_to_its_end_fails_against_the_head_kept_elsewhere(ledger: Ledger, path: Path) -> None:
    head = fill(ledger)
    rewrite(path, first=4, last=11)
    ledger.verify()
    with pytest.raises(LedgerError, match="must contain the expected head"):
        ledger.verify(head=head)


def test_a_ledger_cut_short_fails_against_the_head_kept_elsewhere(ledger: Ledger, path: Path) -> None:
    """Catches: verify() that ignores the head, so that a rolled-back ledger may be charged again."""
    head = fill(ledger)
    tamper(path, "DELETE FROM entry WHERE seq > 8")
    ledger.verify()
    with pytest.raises(LedgerError, match="8 rows must contain the expected head"):
        ledger.verify(head=head)


def test_an_older_head_is_found_in_a_chain_that_grew(ledger: Ledger) -> None:
    heads = [ledger.head(), fill(ledger, 3)]
    ledger.settle("a")
    for head in heads:
        ledger.verify(head=head)


@pytest.mark.parametrize("statement", ["UPDATE entry SET body = '{}'", "DELETE FROM entry"])
def test_the_tables_refuse_changes_in_passing(ledger: Ledger, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        raw(ledger).execute(statement)
    ledger.verify()


# Several processes, and crashes


def test_of_two_processes_on_one_run_exactly_one_charges_each_step(ledger: Ledger, path: Path) -> None:
    """Catches: no unique (run, step); a transaction that reads before it holds the lock."""
    ledger.reserve("both", **{**TERMS, "steps": 60})
    children = [start(CHARGE_WHAT_OTHERS_LEAVE, path, "both", 60) for _ in range(2)]
    for child in children:
        go(child)
    wins = [int(step) for child in children for step in said(child)]
    assert sorted(wins) == list(range(60))
    assert ledger.charged("both") == 60
    ledger.verify()


def test_processes_on_different_runs_share_one_chain(path: Path) -> None:
    """Catches: BEGIN without IMMEDIATE (two rows with one prev); a race in creating the file."""
    runs = [f"run {i}" for i in range(6)]
    children = [start(RESERVE_AND_CHARGE, path, run, 40) for run in runs]
    for child in children:
        go(child)
    for child in children:
        assert len(said(child)) == 40
    with Ledger(path) as ledger:
        assert [ledger.charged(run) for run in runs] == [40] * 6
        assert all(ledger.is_settled(run) for run in runs)
        ledger.verify()


def test_opening_waits_for_a_writer_that_has_not_seen_the_write_ahead_log(ledger: Ledger, path: Path) -> None:
    """Catches: a new ledger refused as "locked" because two processes opened it at once."""
    raw(ledger).execute("PRAGMA journal_mode = DELETE")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, other.close)
    timer.start()
    assert isinstance(ledger.store, SqliteStore)
    assert ledger.store.enter_wal() == "wal"
    timer.join()


def test_a_killed_process_has_released_nothing_uncharged(path: Path) -> None:
    """Catches: committing after charge() returned; a transaction that spans several charges."""
    chance = random.Random(0)
    with Ledger(path) as ledger:
        ledger.reserve("a", **{**TERMS, "steps": 10**6})
    released: set[int] = set()
    for _ in range(15):
        child = start(CHARGE_IN_TURN, path, "a", 10**6)
        go(child)
        assert child.stdout is not None
        first = int(child.stdout.readline())
        time.sleep(chance.uniform(0.02, 0.2))
        child.kill()
        steps = {first, *(int(step) for step in said(child, exit_code=-9))}
        assert not released & steps, "a resumed run released a step again"
        released |= steps
        with Ledger(path) as ledger:
            sql = "SELECT step FROM entry WHERE kind = 'charge'"
            assert released <= {step for (step,) in raw(ledger).execute(sql)}
            ledger.verify()
    assert len(released) > 15


# A ledger that cannot be written


def test_a_full_database_refuses_the_charge_and_stays_whole(ledger: Ledger) -> None:
    """Catches: an error swallowed before the release; a transaction left open."""
    pages = raw(ledger).execute("PRAGMA page_count").fetchone()[0]
    ledger.reserve("long", **{**TERMS, "steps": 1000})
    raw(ledger).execute(f"PRAGMA max_page_count = {pages + 4}")
    done = 0
    with suppress(LedgerError):
        for done in range(1000):
            ledger.charge(Event("long", done, 0.1, 0.9))
    with pytest.raises(LedgerError, match=r"full.*disk has room"):
        ledger.charge(Event("long", done, 0.1, 0.9))
    assert ledger.charged("long") == done > 0
    ledger.verify()
    raw(ledger).execute("PRAGMA max_page_count = 100000")
    ledger.charge(Event("long", done, 0.1, 0.9))
    ledger.verify()


def test_a_disk_that_takes_no_more_bytes_refuses_the_charge_and_stays_whole(ledger: Ledger, path: Path) -> None:
    """Catches: the same, where the write-ahead log itself cannot grow (a file size limit of the system's)."""
    ledger.reserve("long", **{**TERMS, "steps": 1000})
    child = start(CHARGE_UNTIL_THE_DISK_IS_FULL, path, "long", 1000)
    go(child)
    *released, last = said(child)
    assert last == "went on"
    assert 0 < len(released) < 100
    assert ledger.charged("long") == len(released) + 1
    ledger.verify()


def test_a_ledger_locked_by_another_process_refuses_the_charge(ledger: Ledger, path: Path) -> None:
    raw(ledger).execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked"):
        ledger.charge(EVENT)
    other.close()
    ledger.charge(EVENT)
    assert ledger.charged("a") == 1


def test_a_read_only_ledger_refuses_the_charge(ledger: Ledger, path: Path) -> None:
    fairy = ledger.store._connection.connection
    raw(ledger).close()
    fairy.dbapi_connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    with pytest.raises(LedgerError, match="readonly"):
        ledger.charge(EVENT)
    assert ledger.charged("a") == 0


def test_a_closed_ledger_refuses_the_charge(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.charge(EVENT)


def test_a_checkpoint_that_fails_does_not_undo_the_charge_before_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: reporting a durable charge as refused, after which a resumed run would skip that step."""
    monkeypatch.setattr("dpft.privacy.ledger.ledger._TIDY_CHARGES", 1)
    raw(ledger).set_authorizer(lambda _, first, *__: int(first == "wal_checkpoint"))
    ledger.charge(EVENT)
    assert ledger.charged("a") == 1


# Files that are no ledger


def test_a_folder_or_a_path_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path, tmp_path / "file" / "ledger.sqlite"):
        with pytest.raises(LedgerError) as refusal:
            Ledger(path)
        assert "\n" not in str(refusal.value)


def test_a_text_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(path)
    assert path.read_text() == "not a database\n" * 100


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE entry (seq, body, prev, hash)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="must be a dpft ledger"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger, path: Path) -> None:
    raw(ledger).execute("PRAGMA user_version = 3")
    with pytest.raises(LedgerError, match="up to version 2, got version 3"):
        Ledger(path)


# Refusals of the caller's


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"run": "b"}, "reserves before it is charged"),
        ({"run": "\ud800"}, "readable and writable"),
        ({"step": 10}, "step must be a whole number from 0 to 9"),
        ({"step": -1}, "step must be a whole number"),
        ({"step": True}, "step must be a whole number"),
        ({"step": 1.0}, "step must be a whole number"),
        ({"rate": 0.2}, "must be as reserved"),
        ({"noise": 0.8}, "must be as reserved"),
        ({"noise": math.nextafter(0.9, 1)}, "must be as reserved"),
        ({"noise": math.nan}, "must be as reserved"),
    ],
)
def test_a_charge_that_was_not_reserved_is_refused(ledger: Ledger, change: dict[str, Any], rule: str) -> None:
    """Catches: an off-by-one in the last step; terms compared with a tolerance."""
    with pytest.raises(LedgerError, match=rule):
        ledger.charge(replace(EVENT, **change))
    assert ledger.charged("a") == 0
    ledger.charge(EVENT)


def test_a_step_is_charged_once(ledger: Ledger) -> None:
    ledger.charge(EVENT)
    with pytest.raises(LedgerError, match="a step is charged once, got step 0 of 'a' again"):
        ledger.charge(EVENT)
    assert ledger.charged("a") == 1


def test_a_run_spends_its_whole_reservation_and_no_more(ledger: Ledger) -> None:
    fill(ledger)
    assert ledger.next_step("a") == TERMS["steps"]
    with pytest.raises(LedgerError, match="its own budget"):
        ledger.charge(replace(EVENT, step=ledger.next_step("a")))


def test_a_run_reserves_once(ledger: Ledger) -> None:
    """Catches: a second reservation that widens the first."""
    for terms in (TERMS, {**TERMS, "steps": 20}):
        with pytest.raises(LedgerError, match="a run reserves once"):
            ledger.reserve("a", **terms)
    assert ledger.reservation("a") == Reservation("a", **TERMS)


def test_a_settled_run_is_closed_and_settles_again_without_a_row(ledger: Ledger) -> None:
    ledger.charge(EVENT)
    ledger.settle("a")
    head = ledger.head()
    ledger.settle("a")
    assert (ledger.is_settled("a"), ledger.head()) == (True, head)
    with pytest.raises(LedgerError, match="a settled run releases no more"):
        ledger.charge(replace(EVENT, step=1))
    with pytest.raises(LedgerError, match="a run reserves once"):
        ledger.reserve("a", **TERMS)


def test_only_a_reserved_run_settles(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="reserves before it settles"):
        ledger.settle("b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", ""), ("run", "a\nb"), ("run", "a\0b"), ("rate", 0.0), ("rate", 1.1), ("rate", math.nan),
        ("noise", 0.0), ("noise", math.inf), ("steps", 0), ("steps", 2.0), ("delta", 0.0), ("delta", 1.0),
        ("epsilon", -1.0), ("epsilon", math.nan),
    ],
)  # fmt: skip
def test_terms_out_of_range_are_not_reserved(ledger: Ledger, name: str, value: object) -> None:
    head = ledger.head()
    with pytest.raises(UserError):
        ledger.reserve(**{"run": "b", **TERMS, name: value})
    assert ledger.head() == head


def test_the_default_path_is_the_environments_or_the_users_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DPFT_LEDGER", str(tmp_path / "mine.sqlite"))
    assert default_ledger_place() == tmp_path / "mine.sqlite"
    monkeypatch.delenv("DPFT_LEDGER")
    assert default_ledger_place().name == "ledger.sqlite"
    assert default_ledger_place().parent.name == "dpft"
