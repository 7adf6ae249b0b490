"""Who may read a ledger: whoever does can test whether a text was in the data, by its key and sketches."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpft.privacy.ledger import Ledger

TEXTS = [f"text number {n}" for n in range(40)]


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def spend(book: Ledger) -> None:
    book.reserve("a", rate=0.1, noise=1.0, steps=10, delta=1e-5, epsilon=3.0, data_identity=book.data_identity(TEXTS))


@pytest.mark.usefixtures("umask")
def test_a_ledger_its_log_and_its_folder_are_its_owners_alone(tmp_path: Path) -> None:
    """Catches: rights that follow the umask, 0644 and 0755 as a rule."""
    place = tmp_path / "dpft" / "ledger.sqlite"
    with Ledger(place) as book:
        spend(book)
        found = modes(place.parent)
        assert book.note is None
    assert found == {"dpft": 0o700, "ledger.sqlite": 0o600, "ledger.sqlite-wal": 0o600, "ledger.sqlite-shm": 0o600}


@pytest.mark.usefixtures("umask")
def test_no_byte_of_a_ledger_is_written_while_others_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a file that is narrowed only once its key is inside."""
    import dpft.privacy.ledger.storage.sqlite as module

    seen, real = [], module.SqliteStore.prepare

    def prepare(store: module.SqliteStore) -> None:
        seen.append((stat.S_IMODE(store.path.stat().st_mode), store.path.stat().st_size))
        real(store)

    monkeypatch.setattr(module.SqliteStore, "prepare", prepare)
    Ledger(tmp_path / "ledger.sqlite").close()
    assert seen == [(0o600, 0)]


@pytest.mark.usefixtures("umask")
def test_a_wider_ledger_is_narrowed_and_that_is_told_once(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    with Ledger(place) as book:
        spend(book)
        for path in tmp_path.iterdir():
            path.chmod(0o644)
        with Ledger(place) as again:
            assert again.note is not None
            assert "readable by others" in again.note
            assert set(modes(tmp_path).values()) <= {0o600, stat.S_IMODE(tmp_path.stat().st_mode)}
        with Ledger(place) as once_more:
            assert once_more.note is None
            once_more.verify()


@pytest.mark.usefixtures("umask")
def test_a_ledger_behind_a_link_is_its_owners_alone_too(tmp_path: Path) -> None:
    """Catches: a link to nowhere, behind which SQLite makes the file by the umask, and a log beside the real file."""
    real, link = tmp_path / "real", tmp_path / "links"
    real.mkdir(), link.mkdir()
    (link / "ledger.sqlite").symlink_to(real / "ledger.sqlite")
    with Ledger(link / "ledger.sqlite") as book:
        spend(book)
        found = modes(real)
        assert {found[name] for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm")} == {0o600}
        for path in real.iterdir():
            path.chmod(0o644)
    with Ledger(link / "ledger.sqlite") as book:
        assert book.note is not None
        assert modes(real)["ledger.sqlite"] == 0o600
