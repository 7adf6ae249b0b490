"""dpft compare and dpft reproduce on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.calling import Command


@pytest.fixture
def common(tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> list[object]:
    return ["--task", "glue/sst2", "--data", glue_folder(), "--model", tiny_bert, "--batch-size", 40, "--epochs", 0.5,
            "--max-length", 16, "--precision", "fp32", "--to", tmp_path / "c"]  # fmt: skip


def test_a_comparison_plans_runs_prints_and_goes_on(dpft: Command, common: list[object], tmp_path: Path) -> None:
    words = ["compare", "--methods", "bitfit,linear", "--epsilons", "8,inf", "--delta", "1e-4", *common]
    code, out, err = dpft(*words, "--dry-run")
    assert (code, (tmp_path / "c").exists()) == (0, False)
    assert all(word in out for word in ("cells       4", "σ 0.", "2 private cells", "by composition", "MiB"))
    code, _, err = dpft(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "pass --yes" in err
    code, out, err = dpft(*words, "--yes")
    assert code == 0
    assert out.count("accuracy") == 4
    assert "token arrays made 1 of 4 times" in out
    assert err.count("cell ") >= 4
    code, out, _ = dpft("compare", "--to", tmp_path / "c", "--precision", "fp32", "--json")
    found = json.loads(out)
    assert code == 0
    assert [cell["how"] for cell in found["cells"]] == ["found"] * 4
    assert len(found["table"]) == 4
    code, _, err = dpft(*words, "--seeds", 2, "--yes")
    assert (code, err.count("\n")) == (2, 1)
    assert "its own plan" in err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--methods", "slsh", "--epsilons", "8", "--delta", "1e-4"], "did you mean slash"),
        (["--methods", "slash", "--epsilons", "0", "--delta", "1e-4"], "above 0, or inf"),
        (["--methods", "slash", "--epsilons", "8"], "needs a delta"),
        (["--methods", "slash", "--epsilons", "8", "--delta", "1e-4", "--seeds", "0"], "seeds must be"),
        (["--methods", "slash", "--epsilons", "inf", "--trials", "3"], "go with a search"),
        (["--methods", "slash", "--epsilons", "inf", "--search", "grid", "--trials", "3"], "must be random"),
        (["--methods", "slash", "--epsilons", "inf", "--search", "random"], "number of trials"),
        (["--methods", "slash", "--epsilons", "inf", "--search", "random", "--trials", "0"], "trials must be"),
        (["--methods", "slash", "--epsilons", "inf", "--search", "random", "--trials", "3", "--search-on", "glue/rte"],
         "public:TASK"),
        (["--grid", "nowhere.toml"], "TOML"),
        (["--to", "nowhere"], "without; pass --methods"),
        ([], "methods must be names"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(dpft: Command, words: list[str], rule: str) -> None:
    code, out, err = dpft("compare", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert rule in err


def test_flags_override_a_grid_file_and_pick_among_its_methods(
    dpft: Command, common: list[object], tmp_path: Path
) -> None:
    (tmp_path / "grid.toml").write_text(
        'epsilons = [1, inf]\ndelta = 1e-4\nseeds = [7]\n[methods.tiny]\nmethod = "slash"\noptions = { dim = 4 }\n'
        "[methods.bitfit]\n"
    )
    grid = ["compare", "--grid", tmp_path / "grid.toml", *common, "--dry-run", "--json"]
    code, out, _ = dpft(*grid, "--epsilons", "inf", "--methods", "tiny")
    (cell,) = json.loads(out)["cells"]
    assert code == 0
    assert (cell["arm"], cell["spec"]["options"], cell["spec"]["seed"], cell["spec"]["budget"]) == (
        "tiny", {"dim": 4}, 7, None,
    )  # fmt: skip
    code, _, err = dpft(*grid, "--methods", "huge")
    assert code == 2
    assert "picks among the grid's" in err


def test_the_paper_is_listed_with_what_each_cell_needs(dpft: Command) -> None:
    code, out, _ = dpft("reproduce", "--list")
    assert code == 0
    assert out.count("\n") == 122 + 1 + 64 + 9 + 12 + 72 + 40 + 15 + 64
    assert "roberta-large" in out
    assert "scaled from table 5" in out
    code, _, err = dpft("reproduce", "table1", "--list")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = dpft("reproduce")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = dpft("reproduce", "table4", "--only", "sst2")
    assert (code, err.count("\n")) == (2, 1)


def test_a_recipe_on_another_encoder_runs_and_says_that_it_is_not_the_papers(
    dpft: Command, tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from dpft.benchmarks.recipes import read

    def short(row: object, task: str) -> object:
        values, origin = real(row, task)
        return {**values, "epochs": 0.5, "batch_size": 40}, origin

    real = read._settings
    read.recipes.cache_clear()
    monkeypatch.setattr(read, "_settings", short)
    monkeypatch.setattr(read, "_budget", lambda *_: None)
    data = tmp_path / "data"
    data.mkdir()
    glue_folder("sst2").rename(data / "sst2")
    words = ["reproduce", "table6", "--only", "slash,sst2", "--model", tiny_bert, "--data", data, "--seeds", 2,
             "--precision", "fp32", "--to", tmp_path / "c", "--yes"]  # fmt: skip
    try:
        code, out, err = dpft(*words)
    finally:
        read.recipes.cache_clear()
    assert code == 0, err
    assert "not the paper's encoder" in out
    assert "NOT the paper's encoder" in out
    assert "paper 94.5" in out
    assert "(n 2)" in out
    assert dataclasses.is_dataclass(read.Recipe)
