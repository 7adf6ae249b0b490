"""What is compared with what: never other data or promises on one curve, and no winner within the spread."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from dpft.reports import load_runs
from dpft.reports.reading import formatting
from dpft.reports.reading.cells import Setting, best, gather
from dpft.reports.tables import results

from tests.reports.conftest import Maker


def settings(tmp_path: Path) -> list[Setting]:
    return gather(load_runs(tmp_path / "runs"))


def test_seeds_are_repetitions_and_their_mean_and_spread_are_the_textbooks(make: Maker, tmp_path: Path) -> None:
    values = [0.81, 0.84, 0.9]
    for seed, value in enumerate(values):
        make(f"r{seed}", seed=seed, value=value)
    ((cell,),) = [one.cells for setting in settings(tmp_path) for one in setting.series]
    assert cell.n == 3
    assert cell.mean == pytest.approx(mean(values))
    assert cell.spread == pytest.approx(stdev(values))


APART: dict[str, dict[str, Any]] = {
    "data": {"data": "/elsewhere"}, "task": {"task": "glue/qnli"}, "model": {"model": "roberta-base"},
    "delta": {"delta": 1e-6}, "units": {"units": 2999}, "metric": {"metric": "f1"},
    "unit": {"unit": "author"}, "canaries": {"canaries": 64},
    "adjacency": {"adjacency": "replacing one example"},
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_runs_of_another_promise_or_other_data_share_no_curve_and_are_named(
    make: Maker, tmp_path: Path, name: str
) -> None:
    make("a", epsilon=1.0)
    make("b", epsilon=3.0, **APART[name])
    found = settings(tmp_path)
    assert [len(setting.series[0].cells) for setting in found] == [1, 1]
    assert len({setting.title for setting in found}) == 2


def test_a_run_without_privacy_may_have_a_rate_of_its_own_for_the_head(make: Maker, tmp_path: Path) -> None:
    """Catches: a method torn in two by it; two rates of the head, at one of all else, taken for one."""
    make("p", epsilon=3.0, learning_rate=0.01, head_learning_rate=0.3)
    make("n", epsilon=None, learning_rate=0.01, head_learning_rate=0.1)
    ((series,),) = [setting.series for setting in settings(tmp_path)]
    assert [cell.budget for cell in series.cells] == [3.0, math.inf]
    assert (series.chosen["head_learning_rate"], series.free) == (0.3, {"head_learning_rate": 0.1})
    make("m", epsilon=None, seed=1, learning_rate=0.01)
    assert sorted(len(series.cells) for setting in settings(tmp_path) for series in setting.series) == [1, 1, 1]


def test_a_run_without_privacy_may_have_a_rate_of_its_own(make: Maker, tmp_path: Path) -> None:
    """Catches: a method torn in two by a learning rate that only fits one side; two rates taken for one."""
    for seed in (0, 1):
        make(f"p{seed}", epsilon=3.0, seed=seed, learning_rate=0.03, clip=0.5)
        make(f"n{seed}", epsilon=None, seed=seed, learning_rate=0.003, clip=2.0)
    ((series,),) = [setting.series for setting in settings(tmp_path)]
    assert [(cell.budget, cell.n) for cell in series.cells] == [(3.0, 2), (math.inf, 2)]
    assert (series.chosen["learning_rate"], series.free) == (0.03, {"learning_rate": 0.003})
    make("n2", epsilon=None, seed=2, learning_rate=0.001)
    assert sorted(len(series.cells) for setting in settings(tmp_path) for series in setting.series) == [1, 1, 1]


def test_files_of_ones_own_are_called_by_their_name(make: Maker, tmp_path: Path) -> None:
    make("a", task="files", data="/some/where/notes.csv")
    assert [setting.title.split(" · ")[0] for setting in settings(tmp_path)] == ["notes"]


def test_a_run_without_privacy_stands_beside_each_promise_on_its_data(make: Maker, tmp_path: Path) -> None:
    make("a", delta=1e-5)
    make("b", delta=1e-6)
    make("free", epsilon=None)
    make("other", epsilon=None, task="glue/qnli")
    found = {setting.title: setting.budgets for setting in settings(tmp_path)}
    assert found == {
        "glue/sst2 · MiniLM (built in) · δ = 1e-05": [3.0, math.inf],
        "glue/sst2 · MiniLM (built in) · δ = 1e-06": [3.0, math.inf],
        "glue/qnli · MiniLM (built in)": [math.inf],
    }


@pytest.mark.parametrize("chosen", [{"learning_rate": 0.01}, {"epochs": 9.0}, {"options": {"dim": 64}}, {"clip": 1.0}])
def test_another_choice_is_another_series_named_by_it(make: Maker, tmp_path: Path, chosen: dict[str, Any]) -> None:
    make("a", options={"dim": 16})
    make("b", **{"options": {"dim": 16}, **chosen})
    (setting,) = settings(tmp_path)
    key = "dim" if "options" in chosen else next(iter(chosen))
    assert len({series.label for series in setting.series}) == 2
    assert all(series.label.startswith(f"slash {key}=") for series in setting.series)


def test_an_option_means_the_same_from_a_command_line_and_from_python(make: Maker, tmp_path: Path) -> None:
    make("a", options={"dim": 64})
    make("b", options={"dim": "64"}, seed=1)
    assert [series.cells[0].n for setting in settings(tmp_path) for series in setting.series] == [2]


def test_a_series_has_one_name_in_every_setting(make: Maker, tmp_path: Path) -> None:
    for task in ("glue/sst2", "glue/qnli"):
        make(f"a-{task[5:]}", task=task, options={"dim": 64})
    make("b", options={"dim": 16})
    labels = [[series.label for series in setting.series] for setting in settings(tmp_path)]
    assert sorted(labels) == [["slash dim=16", "slash dim=64"], ["slash dim=64"]] or sorted(labels) == [
        ["slash dim=64"], ["slash dim=64", "slash dim=16"]]  # fmt: skip


def compared(make: Maker, tmp_path: Path, one: list[float], other: list[float], **more: bool) -> str | None:
    for method, values in (("slash", one), ("lora", other)):
        for seed, value in enumerate(values):
            path = make(f"{method}{seed}", method=method, seed=seed, value=value)
            found = json.loads((path / "result.json").read_text())
            (path / "result.json").write_text(json.dumps({**found, **more}))
    (setting,) = settings(tmp_path)
    found = best(setting, 3.0)
    return found.label if found else None


@pytest.mark.parametrize(
    ("one", "other", "winner"),
    [
        ([0.80, 0.81], [0.90, 0.91], "lora"),
        ([0.90, 0.91], [0.80, 0.81], "slash"),
        ([0.80, 0.90], [0.86, 0.94], None),  # 5 points apart, spreads of 7 and 5.7
        ([0.80, 0.82], [0.82, 0.84], None),  # 2 apart, spreads 1.41 and 1.41: less than both together
        ([0.80], [0.95, 0.96], None),  # one run says nothing of its spread
        ([0.80, 0.81], [0.95], None),
        ([0.8, 0.8], [0.8, 0.8], None),  # a tie
    ],
)
def test_best_is_marked_only_beyond_the_spread(
    make: Maker, tmp_path: Path, one: list[float], other: list[float], winner: str | None
) -> None:
    assert compared(make, tmp_path, one, other) == winner


def test_of_errors_the_least_is_best(make: Maker, tmp_path: Path) -> None:
    # Catches a maximum over whatever the metric is: by perplexity it would mark the worst.
    assert compared(make, tmp_path, [0.80, 0.81], [0.90, 0.91], higher_is_better=False) == "slash"


def test_alone_nobody_is_best(make: Maker, tmp_path: Path) -> None:
    make("a", seed=0)
    make("b", seed=1)
    (setting,) = settings(tmp_path)
    assert best(setting, 3.0) is None


def test_privacy_took_the_difference_of_means_and_the_root_of_both_variances(make: Maker, tmp_path: Path) -> None:
    private, free = [0.80, 0.84, 0.85], [0.90, 0.92]
    for seed, value in enumerate(private):
        make(f"p{seed}", seed=seed, value=value)
    for seed, value in enumerate(free):
        make(f"f{seed}", epsilon=None, seed=seed, value=value)
    (setting,) = settings(tmp_path)
    (gap,) = results.gaps(setting)
    assert gap.value == pytest.approx(mean(private) - mean(free))
    assert gap.spread == pytest.approx(math.sqrt(stdev(private) ** 2 + stdev(free) ** 2))
    assert gap.apart == ""
    table = results.gap(setting)
    assert table is not None
    assert table.rows[0][2].shown == "−8.0 ± 3.0"


def test_a_difference_to_a_run_of_another_choice_says_which(make: Maker, tmp_path: Path) -> None:
    make("p", learning_rate=0.01)
    make("f", epsilon=None, learning_rate=0.001)
    (setting,) = settings(tmp_path)
    table = results.gap(setting)
    assert table is not None
    assert table.rows[0][1].shown == "80.0 (at learning_rate 0.001)"


def test_where_two_could_be_meant_no_difference_is_given(make: Maker, tmp_path: Path) -> None:
    make("p", learning_rate=0.01)
    make("f", epsilon=None, learning_rate=0.002)
    make("g", epsilon=None, learning_rate=0.003)
    (setting,) = settings(tmp_path)
    assert results.gaps(setting) == []


def test_step_time_is_a_mean_over_runs_and_memory_the_most(make: Maker, tmp_path: Path) -> None:
    make("a", seconds=40, memory=640)
    make("b", seconds=80, memory=None, seed=1)
    make("c", seconds=160, memory=960, epsilon=1.0)
    make("f", seconds=40, memory=320, epsilon=None)
    (setting,) = settings(tmp_path)
    ((_, private, free),) = results.costs(setting)
    assert private.seconds == pytest.approx((40 + 80 + 160) / 80 / 3)
    assert (private.memory, free.memory) == (960, 320)
    row = [cell.shown for cell in results.cost(setting).rows[0]]
    assert row[1:] == ["1.17", "0.500", "2.33 ×", "960", "320", "cpu fp32"]


def test_times_of_different_machines_have_no_ratio(make: Maker, tmp_path: Path) -> None:
    from tests.reports.conftest import change

    make("a")
    change(make("f", epsilon=None), "result", device="cuda")
    (setting,) = settings(tmp_path)
    row = [cell.shown for cell in results.cost(setting).rows[0]]
    assert row[3] == formatting.MISSING
    assert row[-1] == "cpu fp32; cuda fp32"


def searched(folder: Path, charged: bool = True) -> None:
    """As the best run of a search over learning rates leaves it."""
    from tests.reports.conftest import change, put

    put(folder, "search", {"cell": "c", "ranges": {"count": 8, "learning_rate": [0.001, 0.1], "clip": None}})
    change(folder, "privacy", tuning={"charged": charged, "statement": "the best of a random number of runs"})


def test_what_a_search_drew_is_no_choice_of_a_series(make: Maker, tmp_path: Path) -> None:
    # Catches a series a seed, each a single run, where every seed's search found another learning rate.
    for seed, rate in enumerate((0.0123, 0.0456)):
        searched(make(f"s{seed}", seed=seed, learning_rate=rate, value=0.8 + seed / 100))
    make("given", learning_rate=0.01)
    (setting,) = settings(tmp_path)
    assert {series.label: series.cells[0].n for series in setting.series} == {
        "slash learning_rate=searched": 2, "slash learning_rate=0.01": 1,
    }  # fmt: skip
    assert list(load_runs(tmp_path / "runs")["learning_rate"]) == [0.01, 0.0123, 0.0456]  # told as they are


@pytest.mark.parametrize(("charged", "word"), [(True, "yes"), (False, "no")])
def test_a_search_is_told_with_whether_its_label_covers_it(
    make: Maker, tmp_path: Path, charged: bool, word: str
) -> None:
    from dpft.reports.reading.folders import find, read
    from dpft.reports.tables import spending

    searched(make("a"), charged)
    table = spending.tuned(settings(tmp_path), [read(folder) for folder in find([tmp_path / "runs"])])
    assert table is not None
    row = [cell.shown for cell in table.rows[0]]
    assert (row[2], row[-1]) == ("learning_rate: searched", f"{word}: the best of a random number of runs")


def test_a_run_that_began_with_another_is_another_series_whichever_folder_that_lay_in(
    make: Maker, tmp_path: Path
) -> None:
    from tests.reports.conftest import change

    make("cold")
    for seed in range(2):
        change(
            make(f"warm{seed}", seed=seed), "privacy", start={"task": "glue/mnli", "statement": "started from a run"}
        )
    (setting,) = settings(tmp_path)
    assert {series.label: series.cells[0].n for series in setting.series} == {"slash": 1, "slash start=glue/mnli": 2}
