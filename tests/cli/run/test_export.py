"""dpft export: it prints where the export lies and what to run next; a mistake is one line and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dpft import Machine, Spec, train


@pytest.fixture
def run(tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    def make(representation: str) -> Path:
        spec = Spec(
            task="glue/sst2", data=str(glue_folder("sst2", train=60, validation=20)), model=str(tiny_bert),
            options={"dim": 12}, representation=representation, batch_size=30, epochs=1, max_length=24,
        )  # fmt: skip
        return train(spec, runs=tmp_path / "runs", machine=Machine(device="cpu", precision="fp32")).path

    return make


def test_export_says_where_it_lies_what_it_promises_and_what_to_run_next(dpft, run, tmp_path: Path) -> None:
    code, out, err = dpft("export", run("cls"), "--to", tmp_path / "out")
    assert (code, err) == (0, "")
    assert str(tmp_path / "out") in out
    assert "NOT PRIVATE" in out
    lines = out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("next"))
    program = "\n".join(line[12:] for line in lines[start:])
    exec(program, {})


def test_json_is_one_object(dpft, run, tmp_path: Path) -> None:
    code, out, _ = dpft("export", run("cls"), "--to", tmp_path / "out", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["path"] == str(tmp_path / "out")
    assert found["format"] == "hf"
    assert "config.json" in found["files"]


def test_a_run_that_stock_classes_cannot_hold_is_one_line_and_works_with_code(dpft, run, tmp_path: Path) -> None:
    path = run("mean")
    code, out, err = dpft("export", path, "--to", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--with-code" in err
    assert not (tmp_path / "out").exists()
    code, out, _ = dpft("export", path, "--to", tmp_path / "out", "--with-code")
    assert code == 0
    assert "trust_remote_code=True" in out


@pytest.mark.parametrize("words", [("--format", "gguf"), ("--format", "onnx", "--with-code")])
def test_a_wrong_flag_is_one_line(dpft, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, out, err = dpft("export", tmp_path / "none", "--to", tmp_path / "out", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_folder_that_is_no_run_is_one_line(dpft, tmp_path: Path) -> None:
    code, _, err = dpft("export", tmp_path, "--to", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "run.json" in err
