"""An append-only, hash-chained record of every noisy release, shared by all runs and processes.

Row n holds hash_n = sha256(hash_(n-1) + newline + body_n): an edit, a swap or a removal breaks the chain.
The chain has no key: whoever cuts its end off, or rewrites all that follows an edit, passes `verify()`, but
not `verify(head)` with a head kept elsewhere. Keep the file on a local disk: SQLite's write-ahead log shares
memory between processes (https://sqlite.org/wal.html). No loss, norm or drawn size is written here; the
second of each charge is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Self

import platformdirs

from dpft.spec import Budget, UserError, canonical_json

GENESIS = "0" * 64
_APPLICATION = int.from_bytes(b"dpft", "big")  # PRAGMA application_id: tells a ledger from any other database
_SCHEMA_VERSION = 1
_BUSY_SECONDS = 30.0  # how long a writer waits for its turn; one charge holds the lock for milliseconds
_CHECKPOINT_CHARGES = 256  # about 4 MB of write-ahead log, as SQLite's own default of 1,000 pages

# kind, run and step are computed from the hashed body, so a lookup and the chain cannot disagree. The unique
# index is what stops two processes that resume one run from both releasing the same step.
_SCHEMA = (
    """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY, body TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL,
        kind TEXT GENERATED ALWAYS AS (json_extract(body, '$.kind')) VIRTUAL,
        run TEXT GENERATED ALWAYS AS (json_extract(body, '$.run')) VIRTUAL,
        step INTEGER GENERATED ALWAYS AS (ifnull(json_extract(body, '$.step'), -1)) VIRTUAL)""",
    "CREATE UNIQUE INDEX entry_once ON entry (run, kind, step)",
    "CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)


class LedgerError(UserError):
    """The ledger refused, or could not make the entry durable: the caller must not release."""


def _refuse(rule: str, found: object, remedy: str) -> NoReturn:
    raise LedgerError(f"{rule}, got {found}; {remedy}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Event:
    """One noisy release, as charged. `step` counts from 0; `noise` is the multiplier sigma / clip."""

    run: str
    step: int
    rate: float
    noise: float


@dataclass(frozen=True)
class Reservation:
    """What a run may release: `steps` releases at `rate` and `noise`, within (epsilon, delta)."""

    run: str
    rate: float
    noise: float
    steps: int
    delta: float
    epsilon: float

    def __post_init__(self) -> None:
        if not (self.run and self.run.isprintable()):
            _refuse("run must be a printable name", repr(self.run), "rename the run")
        if not 0 < self.rate <= 1:
            _refuse("rate must be above 0 and at most 1", self.rate, "pass batch-size / examples")
        if not 0 < self.noise < math.inf:
            _refuse("noise must be a finite number above 0", self.noise, "calibrate it to the budget")
        if not (_is_whole(self.steps) and self.steps > 0):
            _refuse("steps must be a whole number above 0", repr(self.steps), "train for longer")
        Budget(epsilon=self.epsilon, delta=self.delta)


class Ledger:
    """Reserve before the first gradient, charge before each release, settle at the end.

    Open one per process and thread. Whatever returns without LedgerError is on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _refuse("a ledger needs a writable folder", error, "set DPFT_LEDGER to a file you may write")
        with self._plain_errors():
            self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def reserve(self, run: str, *, rate: float, noise: float, steps: int, delta: float, epsilon: float) -> None:
        """Declare all that the run may release. A run reserves once."""
        terms = Reservation(run, float(rate), float(noise), steps, float(delta), float(epsilon))
        with self._writing():
            try:
                self._append("reserve", asdict(terms))
            except sqlite3.IntegrityError:
                _refuse("a run reserves once", f"run {run!r} again", "resume it, or start a new run")

    def charge(self, event: Event) -> None:
        """Record one release, durably, before it is made. Raises LedgerError if it must not be made."""
        run, step, terms = event.run, event.step, (float(event.rate), float(event.noise))
        with self._writing():
            held = self.reservation(run)
            if held is None:
                _refuse("a run reserves before it is charged", f"no reservation of {run!r}", "call reserve()")
            if self.is_settled(run):
                _refuse("a settled run releases no more", f"step {step} of {run!r}", "start a new run")
            if not (_is_whole(step) and 0 <= step < held.steps):
                rule = f"step must be a whole number from 0 to {held.steps - 1}, as reserved"
                _refuse(rule, repr(step), "start a new run with its own budget")
            if terms != (held.rate, held.noise):
                rule = f"(rate, noise) must be as reserved, {(held.rate, held.noise)}"
                _refuse(rule, terms, "resume with the run's own plan")
            try:
                self._append("charge", {"run": run, "step": step, "rate": terms[0], "noise": terms[1]})
            except sqlite3.IntegrityError:
                found = f"step {step} of {run!r} again"
                _refuse("a step is charged once", found, "stop any other process on this run, then resume it")
        if step % _CHECKPOINT_CHARGES == _CHECKPOINT_CHARGES - 1:
            with suppress(sqlite3.Error):  # the charge is durable already; the next checkpoint moves the rows
                self._db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()

    def settle(self, run: str) -> None:
        """Close the run to charges. A second call changes nothing: a resumed finish may repeat it."""
        with self._writing():
            if self.reservation(run) is None:
                _refuse("a run reserves before it settles", f"no reservation of {run!r}", "call reserve()")
            with suppress(sqlite3.IntegrityError):
                self._append("settle", {"run": run})

    def charged(self, run: str) -> int:
        """How many of the run's steps are charged."""
        return int(self._one("SELECT count(*) FROM entry WHERE run = ? AND kind = 'charge'", run)[0])

    def next_step(self, run: str) -> int:
        """The step after the last one charged: where a resumed run goes on."""
        sql = "SELECT ifnull(max(step), -1) + 1 FROM entry WHERE run = ? AND kind = 'charge'"
        return int(self._one(sql, run)[0])

    def reservation(self, run: str) -> Reservation | None:
        row = self._one("SELECT body FROM entry WHERE run = ? AND kind = 'reserve'", run)
        if row is None:
            return None
        body = json.loads(row[0])
        return Reservation(**{f.name: body[f.name] for f in fields(Reservation)})

    def is_settled(self, run: str) -> bool:
        return self._one("SELECT 1 FROM entry WHERE run = ? AND kind = 'settle'", run) is not None

    def head(self) -> str:
        """The newest row's hash. Keep it outside the ledger: it proves that nothing up to it was removed."""
        return self._last()[1]

    def verify(self, head: str | None = None) -> None:
        """Recompute the chain. Raises LedgerError at the first bad row, or if `head` is not in the chain."""
        seq, last, found = 0, GENESIS, head in (None, GENESIS)
        with self._plain_errors():
            for row, body, prev, digest in self._db.execute("SELECT seq, body, prev, hash FROM entry ORDER BY seq"):
                seq += 1
                if (row, prev, digest) != (seq, last, _link(last, body)):
                    rule = f"row {seq} of the ledger must follow from the row before it"
                    _refuse(rule, "an edited, moved or missing row", f"restore {self.path} from a backup")
                last = digest
                found = found or head == digest
        if not found:
            rule = f"the ledger's {seq} rows must contain the expected head {head}"
            _refuse(rule, "a ledger cut short or rewritten", f"restore {self.path} from a backup")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Create the tables in a blank file, or check that they are ours; then make commits durable."""
        with self._writing():
            application, version = (self._one(f"PRAGMA {name}")[0] for name in ("application_id", "user_version"))
            blank = (application, version, self._one("SELECT count(*) FROM sqlite_master")[0]) == (0, 0, 0)
            if not blank and application != _APPLICATION:
                _refuse("a ledger must be a dpft ledger", f"another database, {self.path}", "set DPFT_LEDGER")
            if version > _SCHEMA_VERSION:
                rule = f"this dpft reads ledgers up to version {_SCHEMA_VERSION}"
                _refuse(rule, f"version {version}", "upgrade dpft")
            for statement in _SCHEMA if blank else ():
                self._db.execute(statement)
        with self._plain_errors():
            mode = self._enter_wal()
            if mode != "wal":
                _refuse("a ledger needs SQLite's write-ahead log", mode, "set DPFT_LEDGER to a local disk")
            self._db.execute("PRAGMA synchronous = FULL")  # in WAL mode: fsync at every commit
            self._db.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
            # SQLite up to 3.51.2 may lose commits when one process checkpoints while another restarts the log
            # ("the WAL-reset bug", https://sqlite.org/wal.html). Its automatic checkpoints let writers go on;
            # the full ones that charge() asks for hold the write lock.
            self._db.execute("PRAGMA wal_autocheckpoint = 0")

    def _enter_wal(self) -> object:
        """Switch to the write-ahead log. SQLite does not wait for another writer here, so we do."""
        give_up = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
            time.sleep(0.01)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:
            remedy = f"check that {self.path} is a ledger, that it can be written, and that its disk has room"
            raise LedgerError(f"the ledger must be readable and writable, got {error}; {remedy}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer among all processes. Leaving it commits and fsyncs; an error undoes all of it."""
        with self._plain_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")

    def _append(self, kind: str, terms: Mapping[str, Any]) -> None:
        seq, prev = self._last()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        body = canonical_json({**terms, "kind": kind, "seq": seq + 1, "time": now})
        row = (seq + 1, body, prev, _link(prev, body))
        self._db.execute("INSERT INTO entry (seq, body, prev, hash) VALUES (?, ?, ?, ?)", row)

    def _last(self) -> tuple[int, str]:
        row = self._one("SELECT seq, hash FROM entry ORDER BY seq DESC LIMIT 1")
        return (0, GENESIS) if row is None else (int(row[0]), str(row[1]))

    def _one(self, sql: str, *values: str) -> Any:
        with self._plain_errors():
            return self._db.execute(sql, values).fetchone()


def _link(prev: str, body: str) -> str:
    return hashlib.sha256(f"{prev}\n{body}".encode()).hexdigest()


def default_ledger_path() -> Path:
    """DPFT_LEDGER, or ledger.sqlite in the user's data folder."""
    chosen = os.environ.get("DPFT_LEDGER")
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("dpft") / "ledger.sqlite"
