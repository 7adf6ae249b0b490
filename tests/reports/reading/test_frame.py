"""Run folders as a table: what dpft train wrote is what is read, and nothing that is wrong stops the rest."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dpft.reports import load_runs
from dpft.reports.reading.folders import find, read
from dpft.reports.reading.frame import bounds

from dpft import Budget, Machine, Spec, UserError, train
from tests.reports.conftest import Maker, audit, change, put


def test_a_trained_run_is_read_as_train_and_card_have_it(
    tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = str(glue_folder(train=80, validation=20))
    spec = Spec(task="glue/sst2", data=data, model=str(tiny_bert), method="linear", batch_size=40, epochs=1.0,
                max_length=32, budget=Budget(8.0, 1e-3))  # fmt: skip
    result = train(spec, runs=tmp_path / "runs", machine=Machine(device="cpu", precision="fp32"))
    (row,) = load_runs(tmp_path / "runs").to_dict("records")
    card = json.loads((result.path / "privacy.json").read_text())
    assert (row["state"], row["note"], row["run"]) == ("finished", "", result.path.name)
    assert (row["value"], row["epsilon"], row["delta"]) == (result.value, card["epsilon"], 1e-3)
    assert (row["budget"], row["units"], row["statement"]) == (8.0, 80, card["statement"])
    assert (row["trainable"], row["steps"], row["memory_mib"]) == (result.trainable, result.steps, result.memory_mib)
    assert row["population"] == card["population"]["id"]
    assert row["step_seconds"] == result.seconds / result.steps


def test_runs_made_for_these_tests_have_the_shape_of_trained_ones(
    tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path, make: Maker
) -> None:
    # All other tests here stand on this one: a card or result that gains a field must be made so too.
    data = str(glue_folder(train=80, validation=20))
    machine = Machine(device="cpu", precision="fp32")
    for budget, epsilon in ((Budget(8.0, 1e-3), 8.0), (None, None)):
        spec = Spec(task="glue/sst2", data=data, model=str(tiny_bert), method="linear", batch_size=40, epochs=1.0,
                    max_length=32, budget=budget, clip=2.0, learning_rate=0.1, optimizer="adam")  # fmt: skip
        path = train(spec, runs=tmp_path / "trained", machine=machine).path
        made = make(f"made-{epsilon}", epsilon=epsilon)
        for name in ("run", "spec", "result", "privacy"):
            theirs, ours = (json.loads((folder / f"{name}.json").read_text()) for folder in (path, made))
            assert theirs.keys() == ours.keys(), name


def test_runs_are_found_in_a_folder_of_them_and_in_a_comparison_each_once(make: Maker, tmp_path: Path) -> None:
    one, two = make("b"), make("a")
    (tmp_path / "runs" / "notes").mkdir()
    make(".being-made")
    assert find([tmp_path / "runs"]) == [two, one]
    assert find([tmp_path]) == [two, one]  # its runs/
    assert find([one, tmp_path / "runs", one]) == [one, two]


def _without_run(folder: Path) -> None:
    (folder / "run.json").unlink()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run.json": (_without_run, "holds no run.json"),
    "later format": (lambda f: change(f, "run", format=2), "format must be 1, got 2"),
    "not JSON": (lambda f: (f / "result.json").write_text('{"value": 0.'), "result.json is no JSON"),
    "deep": (lambda f: (f / "audit.json").write_text("[" * 100_000), "audit.json is no JSON"),
    "not UTF-8": (lambda f: (f / "privacy.json").write_bytes(b"\xff\xfe{}"), "privacy.json is no JSON"),
    "a list": (lambda f: put(f, "privacy", []), "must hold one JSON object, got list"),
    "other spec": (lambda f: change(f, "spec", planet="Mars"), "spec.json: a spec's fields are"),
    "text for a value": (lambda f: change(f, "result", value="high"), "value and seconds must be numbers"),
    "no trainable": (lambda f: change(f, "result", trainable=None), "trainable must be a number"),
    "other epsilon": (lambda f: change(f, "result", epsilon=0.1), "must state the same ε"),
    "beyond the budget": (lambda f: change(f, "privacy", epsilon=9.0), "must lie within the spec's budget"),
    "private or not": (lambda f: change(f, "privacy", private=False), "disagree on whether the run is private"),
    "no statement": (lambda f: change(f, "privacy", statement=None), "must hold a statement"),
    "a link": (lambda f: (f / "audit.json").symlink_to(f / "private" / "audit.json"), "got a link"),
    "a folder": (lambda f: (f / "audit.json").mkdir(), "cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_told_and_the_others_are_shown(make: Maker, tmp_path: Path, name: str) -> None:
    good, bad = make("good"), make("wrong")
    spoil, told = BROKEN[name]
    spoil(bad)
    frame = load_runs(tmp_path / "runs").set_index("run")
    assert frame.loc["good", "state"] == "finished"
    assert frame.loc["wrong", "state"] == "broken"
    assert told in str(frame.loc["wrong", "note"])
    assert "\n" not in str(frame.loc["wrong", "note"])
    assert good.name in frame.index


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_noted_and_in_no_mean(make: Maker, tmp_path: Path, value: float) -> None:
    from dpft.reports.reading.cells import gather

    make("a", value=0.5)
    change(make("b", seed=1), "result", value=value)
    frame = load_runs(tmp_path / "runs")
    assert "in no figure and no mean" in frame["note"][1]
    (setting,) = gather(frame)
    assert setting.series[0].cells[0].values == (0.5,)


def test_a_run_without_a_result_is_unfinished(make: Maker) -> None:
    folder = make("a")
    (folder / "privacy.json").unlink()
    found = read(folder)
    assert (found.state, found.result) == ("unfinished", {})
    assert "dpft resume" in found.note


def test_a_run_that_ran_no_step_costs_no_division(make: Maker, tmp_path: Path) -> None:
    change(make("a"), "result", steps=0)
    assert math.isnan(load_runs(tmp_path / "runs")["step_seconds"][0])


def test_a_path_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a run must be a folder, got .*nowhere"):
        load_runs(tmp_path / "nowhere")


def test_a_bound_on_people_is_not_shown_even_where_a_file_has_it(make: Maker, tmp_path: Path) -> None:
    # Catches reading private checks of an audit that was copied out of private/.
    folder = make("a")
    audit(folder, bound=1.2)
    values = json.loads((folder / "audit.json").read_text())
    values["checks"].append({**values["checks"][-1], "value": 2.9, "private": True})
    put(folder, "audit", values)
    assert load_runs(folder)["lower_bound"][0] == 1.2


def test_bounds_are_read_as_an_audit_writes_them(make: Maker) -> None:
    from dpft.audit.evidence.report import Check, Report

    folder = make("a")
    found = (Check("model", "ε, one run", 1.25, 0.0, 3.0, "bound"), Check("path", "ε", math.inf, 0.0, 2.0, "bound"),
             Check("bookkeeping", "ε recomputed", 2.9, 0.0, 3.0, "fact"))  # fmt: skip
    put(folder, "audit", Report("a", 0.99, 3.0, 1e-5, found, {}).to_json())
    assert [(one["level"], one["value"], one["claimed"], one["passed"]) for one in bounds(read(folder).audit)] == [
        ("model", 1.25, 3.0, True), ("path", math.inf, 2.0, False),
    ]  # fmt: skip
    (row,) = load_runs(folder).to_dict("records")
    assert (row["audit"], row["lower_bound"]) == ("FAIL", 1.25)


def test_nothing_of_private_is_ever_opened_and_no_torch_is_loaded(make: Maker, tmp_path: Path) -> None:
    # Python's own audit hook sees every open and listing.
    audit(make("a"))
    code = f"""
import sys
seen = []
looks = ("open", "os.listdir", "os.scandir")
sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event in looks else None)
from dpft.reports import write_report
write_report([{str(tmp_path / "runs")!r}], {str(tmp_path / "out")!r})
assert any("result.json" in one for one in seen)
print([one for one in seen if "/private" in one], [m for m in ("torch", "transformers") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[] []"
