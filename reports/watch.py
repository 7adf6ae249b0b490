"""A local server of the report's page, which is rendered again when run folders change."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dpft.reports import page
from dpft.reports.reading.folders import FILES, find, read
from dpft.reports.report import build

from dpft.errors import UserError

LOOPBACK = "127.0.0.1"


class LiveReport:
    """The page on the runs at `paths`, of which none need be there yet. Safe among threads."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = [Path(path) for path in paths]
        self._lock = threading.Lock()
        self._shown, self._page = "", b""

    def state(self) -> str:
        """Changes whenever a file of a run does."""
        digest = hashlib.sha256()
        for folder in self._folders():
            digest.update(str(folder).encode())
            for name in FILES:
                digest.update(_stamp(folder / f"{name}.json"))
        return digest.hexdigest()[:16]

    def page(self) -> bytes:
        """The newest page, rendered once for each state."""
        with self._lock:
            state = self.state()
            if state != self._shown:
                report = build([read(folder) for folder in self._folders()])
                self._page, self._shown = page.render(report, state).encode(), state
            return self._page

    def _folders(self) -> list[Path]:
        return [folder for path in self._paths if path.is_dir() for folder in find([path]) if folder != path or
                any((path / f"{name}.json").exists() for name in FILES)]  # fmt: skip


class Server(ThreadingHTTPServer):
    """Serves `watched` on the loopback address alone. Port 0 takes a free one. Raises UserError where it is taken."""

    daemon_threads = True

    def __init__(self, watched: LiveReport, port: int) -> None:
        if not 0 <= port <= 65535:
            raise UserError(f"a port must lie between 0 and 65535, got {port}; pass --port 0 for a free one")
        try:
            super().__init__((LOOPBACK, port), partial(_Answer, watched))
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise UserError(f"a port must be free, got {port} ({why}); pass --port 0 for a free one") from None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no news, and a traceback no line for a person."""


class _Answer(BaseHTTPRequestHandler):
    """GET / is the page, GET /state tells whether it is still the newest."""

    server: Server
    server_version, sys_version = "dpft", ""

    def __init__(self, watched: LiveReport, *rest: Any) -> None:
        self._watched = watched
        super().__init__(*rest)

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):  # a foreign name led here
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this page is served to this machine alone\n")
        elif self.path == "/":
            self._send(HTTPStatus.OK, "text/html", self._watched.page())
        elif self.path == "/state":
            self._send(HTTPStatus.OK, "text/plain", self._watched.state().encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there is only /\n")

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a terminal is for one line."""


def _stamp(file: Path) -> bytes:
    try:
        found = file.lstat()
    except OSError:
        return b"-"
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}".encode()
