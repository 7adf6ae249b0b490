"""dpft report: a folder from run folders, one line for a mistake, and a server that stops on Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from dpft.cli import main

from tests.reports.conftest import make_run

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def dpft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    def call(*words: object) -> Outcome:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["dpft", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def runs(dpft: Command, tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A private run, and the same without privacy."""
    data = glue_folder(train=80, validation=20)
    for budget in ("--epsilon 8 --delta 1e-3", "--non-private"):
        code, _, err = dpft(
            "train", "--task", "glue/sst2", "--data", data, "--model", tiny_bert, "--batch-size", 40, "--epochs", 1,
            "--max-length", 32, "--precision", "fp32", "--method", "linear", *budget.split(), "--json",
        )  # fmt: skip
        assert code == 0, err
    return tmp_path / "runs"


def test_trained_runs_and_their_ledger_make_a_report(dpft: Command, runs: Path, tmp_path: Path) -> None:
    private = next(runs.glob("*eps8*"))
    code, out, err = dpft("report", "--to", "out", "--ledger", os.environ["DPFT_LEDGER"])
    assert (code, err) == (0, "")
    assert "runs        2 finished" in out
    assert "lies in     out/report.html" in out
    text = (tmp_path / "out" / "report.md").read_text()
    card = json.loads((private / "privacy.json").read_text())
    assert card["statement"] in text.replace("\\", "")
    assert "the ledger, now" in text
    assert "The ledger of each population" in text
    assert "Private minus non\\-private" in text or "Private minus non-private" in text


def test_json_names_the_files_and_what_was_odd(dpft: Command, tmp_path: Path) -> None:
    for name in ("a", "b", "late"):
        make_run(tmp_path / "runs", name)
    (tmp_path / "runs" / "late" / "result.json").unlink()
    code, out, _ = dpft("report", "runs", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["finished"], told["unfinished"], told["broken"]) == (2, 1, 0)
    assert Path(told["files"][0]).name == "report.html"
    assert "without a result so far" in told["notes"][0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("report", "nowhere"), "a run must be a folder, got 'nowhere'"),
        (("report",), "a run must be a folder, got 'runs'"),
        (("report", "."), "a report needs at least one run"),
        (("report", ".", "--ledger", "none.sqlite"), "there must be a ledger"),
        (("report", ".", "--ledger", "mysql://x"), "a ledger's URL must begin with"),
        (("report", ".", "--port", "1"), "pass --watch"),
        (("report", ".", "--watch", "--to", "x"), "drop one"),
        (("report", ".", "--watch", "--port", "99999"), "a port must lie between"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    dpft: Command, words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    code, out, err = dpft(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert not (tmp_path / "report").exists()


def test_watching_says_where_and_stops_on_ctrl_c_with_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from dpft.cli import main; main()", "report", "--watch", "--port", "0"]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        told = server.stdout.readline()
        assert told.startswith("watching runs: open http://127.0.0.1:")
        with urllib.request.urlopen(told.split("open ")[1].split(" ")[0]) as answer:
            assert b"No finished run yet" in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert (server.stdout.read().strip(), server.stderr.read()) == ("stopped watching", "")
