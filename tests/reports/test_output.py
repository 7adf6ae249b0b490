"""A report as a folder: the same figures in every spelling, and none of them can be led astray by a name."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dpft.reports import write_report
from dpft.reports.tables.tables import Column, Table, Text, latex, markdown

from dpft.errors import UserError
from tests.reports.conftest import Maker, audit, make_run

NASTY = "a_b & 50% #1 {x} $y$ ~^\\ |`*[z](w) <b>é</b>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with and without privacy on one task, and an audited single run on another."""
    root = tmp_path_factory.mktemp("written") / "runs"
    for seed, value in enumerate((0.80, 0.84)):
        make_run(root, f"p{seed}", seed=seed, value=value)
        make_run(root, f"f{seed}", seed=seed, value=value + 0.1, epsilon=None)
    audit(make_run(root, "other", task="glue/qnli"))
    return root


@pytest.fixture(scope="module")
def written(runs: Path) -> Path:
    """Their report."""
    write_report([runs], runs.parent / "out")
    return runs.parent / "out"


def test_the_folder_holds_page_text_tables_and_figures(written: Path) -> None:
    files = {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()}
    figures = ("accuracy-over-epsilon", "accuracy-over-parameters", "time-and-memory", "private-minus-non-private",
               "claimed-and-audited")  # fmt: skip
    tables = ("accuracy-1", "accuracy-2", "cost-1", "cost-2", "gap-1", "audit", "populations", "tuning", "runs",
              "statements")  # fmt: skip
    assert files == {
        "report.html", "report.md", "runs.csv", "cells.csv", *(f"tables/{name}.tex" for name in tables),
        *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")),
    }  # fmt: skip


def test_every_spelling_gives_the_same_mean_and_spread(written: Path) -> None:
    shown = "82.0 ± 2.8"
    assert shown in (written / "report.html").read_text()
    assert shown in (written / "report.md").read_text()
    assert shown.replace("±", r"$\pm$") in (written / "tables" / "accuracy-1.tex").read_text()
    with open(written / "cells.csv") as file:
        cells = {(row["task"], row["budget"]): row for row in csv.DictReader(file)}
    cell = cells["glue/sst2", "3.0"]
    assert (cell["n"], float(cell["mean"])) == ("2", pytest.approx(0.82))
    assert float(cell["standard_deviation"]) == pytest.approx(0.04 / 2**0.5)
    assert cells["glue/qnli", "3.0"]["standard_deviation"] == ""  # one run has none


def test_the_frame_comes_back_from_its_csv(written: Path, runs: Path) -> None:
    import pandas as pd
    from dpft.reports import load_runs

    frame, back = load_runs(runs), pd.read_csv(written / "runs.csv")
    assert list(frame.columns) == list(back.columns)
    assert list(frame["value"]) == list(back["value"])
    assert list(frame["budget"]) == list(back["budget"])  # infinity too


def test_a_name_is_no_formula_in_a_spreadsheet(make: Maker, tmp_path: Path) -> None:
    make("=cmd|'-C calc'!A0", method="+1", task="@x")
    write_report([tmp_path / "runs"], tmp_path / "out")
    for name in ("runs.csv", "cells.csv"):
        with open(tmp_path / "out" / name) as file:
            assert not [cell for row in csv.reader(file) for cell in row if re.match(r"[=+@]|-\D", cell)]


def nasty() -> Table:
    return Table("t", NASTY, [Column(NASTY), Column("ε", True)], [[Text(NASTY), Text("1 ± 2", strong=True)]], NASTY)


def test_markdown_shows_names_as_they_are(written: Path) -> None:
    lines = markdown(nasty()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1  # no name adds a column
    assert "<b>" not in "\n".join(lines)
    assert "**1 ± 2**" in table[2]


def test_latex_sets_every_table(written: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex; apt install texlive-latex-base")
    tables = [latex(nasty()), *((file.read_text()) for file in sorted((written / "tables").glob("*.tex")))]
    booktabs = r"\let\toprule\hline\let\midrule\hline\let\bottomrule\hline"  # as good for what is asked here
    text = "\n".join([r"\documentclass{article}\usepackage[T1]{fontenc}" + booktabs, r"\begin{document}",
                      *(f"{table}\n\\clearpage" for table in tables), r"\end{document}"])  # fmt: skip
    (tmp_path / "all.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_line(make: Maker, tmp_path: Path, where: str) -> None:
    make("a")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a report must lie where it can be written, got .*pass --to"):
        write_report([tmp_path / "runs"], tmp_path / where)


def test_the_ledger_is_asked_for_these_runs_alone(make: Maker, tmp_path: Path) -> None:
    make("a")
    asked: list[set[str]] = []

    def ledger(ids: set[str]) -> list[dict[str, Any]]:
        asked.append(ids)
        runs = [{"run": "id-a", "time": "2026-01-02", "charged": 80, "steps": 80, "noise": 1.0, "rate": 0.1,
                 "label": "(3, 1e-05)", "settled": True, "unit": "example"}]  # fmt: skip
        limits = [{"epsilon": 8.0, "delta": 1e-5, "planned": False, "left": 1.5}]
        return [{"id": "a" * 16, "names": ["people"], "joined": [], "since": "2026-01-01", "delta": 1e-5, "runs": runs,
                 "limits": limits, "composition": {"epsilon": 6.01}, "filter": {"epsilon": 6.49991}}]  # fmt: skip

    written = write_report([tmp_path / "runs"], tmp_path / "out", ledger)
    text = (tmp_path / "out" / "report.md").read_text()
    assert asked == [{"id-a"}]
    assert "aaaaaaaa (people)" in text
    assert "ε 8 at δ 1e-05, left 1.5" in text
    assert "6.500" in text  # rounded up
    assert "the card of" not in text  # the ledger knows better
    assert len(written.files) > 10
