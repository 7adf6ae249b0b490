"""Figures as files: readable without colour, every axis with its unit, every point with n and spread."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dpft.reports import figures, load_runs, plot_privacy_utility
from dpft.reports.drawing import bars, style
from dpft.reports.reading.cells import gather
from dpft.reports.reading.folders import find, read
from dpft.reports.report import Report, build
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from dpft.errors import UserError
from tests.reports.conftest import Maker, audit


@pytest.fixture
def runs(make: Maker, tmp_path: Path) -> Path:
    """Two tasks; two methods at two ε and without privacy, two seeds each; a single run; an audit."""
    for method, epsilon, seed in itertools.product(("slash", "lora"), (1.0, 3.0, None), range(2)):
        make(f"{method}-{epsilon}-{seed}", method=method, epsilon=epsilon, seed=seed, value=0.8 + 0.01 * seed)
    audit(make("other", task="glue/qnli", value=0.7))
    return tmp_path / "runs"


def report(runs: Path) -> Report:
    return build([read(folder) for folder in find([runs])])


def test_a_notebook_gets_a_panel_a_setting_with_units_and_n(runs: Path) -> None:
    drawn = plot_privacy_utility(load_runs(runs))
    assert isinstance(drawn, Figure)
    titles = [axes.get_title() for axes in drawn.axes]
    assert [title.partition(" ")[0] for title in titles] == ["glue/sst2", "glue/qnli"]
    assert all("δ = 1e-05" in title for title in titles)
    for axes in drawn.axes:
        assert axes.get_xlabel() == "privacy budget ε (no unit, logarithmic)"
        assert axes.get_ylabel() == "accuracy on the validation rows (%)"
    said = drawn.legends[0].get_title().get_text()
    assert "mean of 1 to 2 runs (small circles), bar: ± one standard deviation; hollow" in said


def test_what_has_no_privacy_is_on_no_curve(runs: Path) -> None:
    # Catches a line drawn on to where there is no ε.
    axes = plot_privacy_utility(load_runs(runs)).axes[0]
    curves = [line for line in axes.lines if line.get_linestyle() not in ("None", ":") and len(line.get_xdata()) == 2]
    assert len([line for line in curves if np.ptp(np.asarray(line.get_xdata(), float)) > 1]) == 2
    assert max(np.max(np.asarray(line.get_xdata(), float)) for line in curves) < 3.1


def test_bars_are_one_standard_deviation_and_a_single_run_has_none(runs: Path) -> None:
    drawn = figures.utility(gather(load_runs(runs)), {"slash": 0, "lora": 1})
    many, single = drawn.axes
    assert [bool(bar.has_yerr) for bar in single.containers if isinstance(bar, ErrorbarContainer)] == [False]
    ends = [bar.lines[2][0].get_segments()[0][:, 1] for bar in many.containers if isinstance(bar, ErrorbarContainer)]
    half = 100 * np.std([0.80, 0.81], ddof=1)
    assert len(ends) == 6
    assert all(high - low == pytest.approx(2 * half) for low, high in ends)


def test_every_run_is_drawn_so_that_a_failed_one_does_not_hide_in_its_mean(tmp_path: Path, make: Maker) -> None:
    """Catches: a mean of 79, 79 and 51 that looks like three runs at 70."""
    for seed, value in enumerate((0.79, 0.79, 0.51)):
        make(f"a{seed}", seed=seed, value=value)
    (axes,) = plot_privacy_utility(load_runs(tmp_path / "runs")).axes
    drawn = [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "None"]
    assert [79.0, 79.0, 51.0] in drawn
    assert axes.get_ylim()[0] < 51


def test_any_two_of_49_series_differ_without_their_colour() -> None:
    looks = [style.look(place) for place in range(49)]
    assert len({(look.marker, look.dashes) for look in looks}) == 49
    assert len({look.colour for look in looks[:7]}) == len({look.marker for look in looks[:7]}) == 7
    assert len({look.dashes for look in looks[:7]}) == 7


def test_every_figure_is_there_and_names_its_unit(runs: Path) -> None:
    drawn = dict(figures.drawn(report(runs)))
    assert list(drawn) == [
        "accuracy-over-epsilon", "accuracy-over-parameters", "time-and-memory", "private-minus-non-private",
        "claimed-and-audited",
    ]  # fmt: skip
    units = ("(no unit", "(count", "(%)", "(seconds)", "(MiB)", "(percentage points)", "no unit)")
    for name, figure in drawn.items():
        for axes in figure.axes:
            assert any(unit in axes.get_xlabel() for unit in units), name
            assert axes.get_ylabel() == "" or any(unit in axes.get_ylabel() for unit in units), name
        assert style.rendered(figure, "png").startswith(b"\x89PNG")
        svg = style.rendered(figure, "svg")
        assert b"<text" in svg  # text stays text


def test_the_same_runs_give_the_same_file(runs: Path) -> None:
    first, second = (style.rendered(plot_privacy_utility(load_runs(runs)), "svg") for _ in range(2))
    assert first == second


def test_infinite_bounds_and_bounds_beyond_the_claim_are_drawn(make: Maker, tmp_path: Path) -> None:
    for name, bound in (("a", "inf"), ("b", 99.0), ("c", "nan")):
        audit(make(name), verdict="FAIL", bound=bound)
    made = report(tmp_path / "runs")
    assert style.rendered(bars.audited(made.runs), "png").startswith(b"\x89PNG")


def test_without_a_finished_run_there_is_no_figure_but_a_line(make: Maker, tmp_path: Path) -> None:
    (make("a") / "result.json").unlink()
    with pytest.raises(UserError, match="a figure needs a finished run, got none"):
        plot_privacy_utility(load_runs(tmp_path / "runs"))
    assert list(figures.drawn(report(tmp_path / "runs"))) == []
    assert isinstance(load_runs(tmp_path / "runs"), pd.DataFrame)
