"""The page while runs come in: for this machine alone, anew when a file changes, whatever comes."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpft.reports.watch import LiveReport, Server

from dpft.errors import UserError
from tests.reports.conftest import Maker, change


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(LiveReport([tmp_path / "runs"]), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, path: str = "", **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers)) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_run_that_finishes_changes_state_and_page(server: Server, make: Maker) -> None:
    status, text = get(server)
    assert status == 200
    assert "No finished run yet" in text  # runs/ is not even there
    first = get(server, "state")
    assert f'data-watched="{first[1]}"' in text
    folder = make("a", value=0.812)
    second = get(server, "state")
    assert first != second == get(server, "state")
    assert "81.2" in get(server)[1]
    change(folder, "result", value=0.934)
    assert get(server, "state") != second
    assert "93.4" in get(server)[1]


def test_a_half_written_or_vanishing_run_never_stops_it(server: Server, make: Maker) -> None:
    make("a")
    (make("b") / "result.json").write_text('{"val')
    status, text = get(server)
    assert status == 200
    assert "result.json is no JSON" in text
    for file in (make("c") / "spec.json", make("d") / "run.json"):
        file.unlink()
        assert get(server)[0] == 200


def test_a_page_is_rendered_once_for_each_state(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpft.reports import watch

    make("a")
    watched, rendered = LiveReport([tmp_path / "runs"]), []
    render = watch.page.render
    monkeypatch.setattr(watch.page, "render", lambda *args: rendered.append(args) or render(*args))
    assert watched.page() == watched.page()
    assert len(rendered) == 1


def test_only_this_machine_by_its_own_name_is_answered(server: Server, make: Maker) -> None:
    # Catches a page on the web whose name was pointed at 127.0.0.1 (DNS rebinding).
    make("a")
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, Host="evil.example")[0] == 403
    assert get(server, "state", Host=f"evil.example:{server.server_port}")[0] == 403
    assert get(server, Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("path", ["a/result.json", "../ledger.sqlite", "runs/a/private/audit.json", "state/x"])
def test_no_file_is_served(server: Server, make: Maker, path: str) -> None:
    make("a")
    assert get(server, path) == (404, "there is only /\n")


def test_nothing_but_reading_is_answered(server: Server) -> None:
    request = urllib.request.Request(server.url, data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request)


def test_a_port_that_is_taken_or_none_at_all_is_one_line(server: Server, tmp_path: Path) -> None:
    for port in (server.server_port, 70000, -1):
        with pytest.raises(UserError, match=r"a port must .*; pass --port 0"):
            Server(LiveReport([tmp_path]), port)
