"""The page: one file, nothing from outside, no markup from labels, and what a reader must know is on it."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dpft.reports import page
from dpft.reports.drawing import charts
from dpft.reports.reading.folders import find, read
from dpft.reports.report import CAVEAT, Report, build, check_any
from dpft.reports.tables import spending

from dpft.errors import UserError
from dpft.runs import privacy_card
from dpft.runs.privacy_card import DOES_NOT_COVER
from dpft.runs.statements import CHOICE, VALIDATION
from tests.reports.conftest import Maker, audit, change, summary

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class PastData(HTMLParser):
    """Tags, their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report(tmp_path: Path) -> Report:
    return build([read(folder) for folder in find([tmp_path / "runs"])])


def shown(tmp_path: Path) -> PastData:
    return PastData(page.render(report(tmp_path)))


def test_nothing_is_loaded_from_anywhere(make: Maker, tmp_path: Path) -> None:
    audit(make("a"))
    make("b", epsilon=None)
    text = page.render(report(tmp_path))
    assert not re.search(r"https?://|src=|@import|url\(|href=", text)
    (policy,) = [a["content"] for _, a in PastData(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_no_label_name_or_note_is_taken_for_markup(make: Maker, tmp_path: Path) -> None:
    # Every text that comes from a run's files, with a script in it. Catches one `| safe` or Markup() too many.
    harmless = [tag for tag, _ in shown_plain(make, tmp_path)]
    folder = make(f"r{EVIL.replace('/', '')}", method=EVIL, task=EVIL, model=EVIL, options={EVIL: EVIL}, unit=EVIL,
                  adjacency=EVIL, metric=EVIL, population=EVIL)  # fmt: skip
    change(folder, "privacy", statement=EVIL, accountant=EVIL, covers=[EVIL], does_not_cover=[EVIL], ledger_head=EVIL)
    change(folder, "result", device=EVIL, precision=EVIL)
    audit(folder)
    change(folder, "audit", verdict=EVIL)
    change(make("broken"), "run", format=EVIL)
    text = page.render(report(tmp_path))
    seen = PastData(text)
    assert len(re.findall("<script", text)) == 1
    assert {tag for tag, _ in seen.tags} <= {*harmless, "details", "summary", "strong"}
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert "<img" not in text
    assert "alert(1)" in seen.text


def shown_plain(make: Maker, tmp_path: Path) -> list[tuple[str, dict[str, str | None]]]:
    audit(make("plain", seed=1))
    make("plain2", seed=2, epsilon=1.0)
    return shown(tmp_path).tags


def test_only_the_pages_own_script_may_run(make: Maker, tmp_path: Path) -> None:
    import base64
    import hashlib

    make("a")
    text = page.render(report(tmp_path))
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text


def test_the_page_says_what_no_promise_covers_in_the_cards_words(make: Maker, tmp_path: Path) -> None:
    make("a")
    assert VALIDATION in DOES_NOT_COVER
    assert CHOICE in DOES_NOT_COVER
    assert VALIDATION in CAVEAT
    text = shown(tmp_path).text
    assert text.count(CAVEAT) == 2  # with the figures, and with the list of runs
    assert all(line in text for line in (*privacy_card.COVERS, *DOES_NOT_COVER))


def test_every_run_states_its_own_promise_and_a_search_or_start_that_its_card_tells_of(
    make: Maker, tmp_path: Path
) -> None:
    make("a", epsilon=2.0)
    make("free", epsilon=None)
    change(make("b"), "privacy", start={"statement": "started from a private run on the same population"})
    text = shown(tmp_path).text
    assert "(1.998, 1e-05)-differential privacy for adding or removing one example" in text
    assert "NOT PRIVATE: trained without clipping and noise" in text
    assert "started from a private run on the same population" in text


def test_rows_of_ones_own_go_by_their_files_name(make: Maker, tmp_path: Path) -> None:
    """Catches: a page "on files", whatever they are."""
    make("a", task="files", data="/home/me/tickets.csv", text="message", label="team")
    text = page.render(report(tmp_path))
    assert "1 method on tickets<" in text
    assert "on files" not in text


def test_an_epsilon_is_rounded_up_never_down(make: Maker, tmp_path: Path) -> None:
    make("a", epsilon=6.70001)  # its bound is 6.69330999
    change(tmp_path / "runs" / "a", "privacy", population=summary("p", composition=2.00001, filter=3.99991))
    text = shown(tmp_path).text
    assert "6.694" in text
    assert "6.693" not in text
    assert "2.001" in text
    assert "4.000" in text


def test_what_is_odd_is_noted_on_top(make: Maker, tmp_path: Path) -> None:
    make("a")
    make("b", task="glue/qnli", population="b" * 16)
    change(make("c"), "result", value=float("nan"))
    make("d", seed=2, population="d" * 16)
    (make("e") / "result.json").unlink()
    (make("f") / "spec.json").write_text("{")
    notes = "\n".join(report(tmp_path).notes)
    assert "2 groups" in notes
    assert "c: its accuracy is nan" in notes
    assert "charged to 2 populations" in notes
    assert "1 run without a result so far: e" in notes
    assert "f is broken: spec.json is no JSON" in notes


def test_one_run_a_point_is_drawn_hollow_and_said_to_have_no_spread(make: Maker, tmp_path: Path) -> None:
    make("a")
    make("b", method="lora")
    text = page.render(report(tmp_path))
    assert "mark hollow" in text
    assert "no method can be called better" in text
    assert 'class="spread"' not in text
    make("c", seed=1)
    make("d", method="lora", seed=1)
    text = page.render(report(tmp_path))
    assert "mark hollow" not in text
    assert 'class="spread"' in text


def test_every_run_has_its_circle_within_the_chart(make: Maker, tmp_path: Path) -> None:
    """Catches: a run that lies beyond its mean's bar, and so beyond the axis."""
    for seed, value in enumerate((0.79, 0.79, 0.51)):
        make(f"a{seed}", seed=seed, value=value)
    (setting,) = report(tmp_path).settings
    frames = (charts.WIDE, charts.NARROW, charts.SMALL)
    circles = [float(a["cy"] or "nan") for name, a in shown(tmp_path).tags if name == "circle" and a["class"] == "run"]
    assert len(circles) == 3 * len(frames)
    for number, frame in enumerate(frames):
        y, drawn = frame.vertical(*charts.extent(setting)), circles[3 * number :][:3]
        assert drawn == pytest.approx([y(0.79), y(0.79), y(0.51)], abs=0.06)
        assert all(frame.top <= height <= frame.height - frame.bottom for height in drawn)


def test_every_point_tells_its_n_and_spread(make: Maker, tmp_path: Path) -> None:
    for seed, value in enumerate((0.80, 0.82)):
        make(f"a{seed}", seed=seed, value=value)
    tips = [a["data-tip"] for _, a in shown(tmp_path).tags if "data-tip" in a]
    assert tips
    assert set(tips) == {"slash\n81.0 ± 1.4 %\nε = 3 (proven 2.997)\n2 runs, mean ± standard deviation\n"
                         "1,794 trainable parameters"}  # fmt: skip


def test_every_axis_has_its_unit(make: Maker, tmp_path: Path) -> None:
    make("a", metric="matthews")
    make("b", metric="accuracy")
    text = shown(tmp_path).text
    for words in ("privacy budget ε (no unit, logarithmic)", "accuracy (%)", "matthews (no unit)",
                  "trainable parameters (count, logarithmic)"):  # fmt: skip
        assert words in text


def test_the_same_series_looks_the_same_in_every_chart(make: Maker, tmp_path: Path) -> None:
    for task in ("glue/sst2", "glue/qnli"):
        for method in ("slash", "lora", "linear"):
            make(f"{method}-{task[5:]}", task=task, method=method)
    found: dict[str, set[str]] = {}
    for tag, attributes in shown(tmp_path).tags:
        if tag == "g" and "data-series" in attributes:
            found.setdefault(str(attributes["data-series"]), set()).add(str(attributes["class"]))
    assert len(found) == 3
    assert all(len(looks) == 1 for looks in found.values())


def test_what_varied_is_listed_with_how_the_choice_was_charged(make: Maker, tmp_path: Path) -> None:
    for number, rate in enumerate((0.001, 0.01)):
        make(f"a{number}", learning_rate=rate)
    make("free", epsilon=None)
    made = report(tmp_path)
    table = spending.tuned(made.settings, made.runs)
    assert table is not None
    assert [cell.shown for cell in table.rows[0]][1:] == [
        "slash", "learning_rate: 0.001, 0.01", "2", "2", "population aaaaaaaa", "no, says each card",
    ]  # fmt: skip


def test_the_newest_card_speaks_for_its_population_and_the_ledger_for_now(make: Maker, tmp_path: Path) -> None:
    for name, runs, spent in (("old", 2, 4.0), ("new", 3, 5.0)):
        change(make(name), "privacy", population=summary("p" * 16, runs, spent))
    made = report(tmp_path)
    table = spending.populations(made.runs)
    assert table is not None
    (row,) = table.rows
    assert [cell.shown for cell in row][1:4] == ["3", "1e-05", "5"]
    assert row[-1].shown == "the card of new"


def test_a_page_without_runs_awaits_them_and_a_report_without_any_is_refused(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert "No finished run yet" in page.render(build([]))
    with pytest.raises(UserError, match=r"a report needs at least one run, got .*holds no run.json"):
        check_any(report(tmp_path), [tmp_path / "runs"])


@pytest.mark.parametrize("count", [1, 2, 30])
def test_names_beside_the_curves_never_meet_or_leave_the_chart(make: Maker, tmp_path: Path, count: int) -> None:
    from dpft.reports.drawing import charts

    for number in range(count):
        make(f"r{number}", options={"dim": number + 1}, value=0.8 + number * 1e-5)
    made = report(tmp_path)
    drawn = str(charts.privacy_utility(made.settings[0], made.places))
    heights = sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)" class="name"', drawn))
    assert len(heights) == (count if count < 25 else 0)  # too many are named by the legend alone
    assert all(b - a > 14 for a, b in itertools.pairwise(heights))
    assert all(0 < y < 400 for y in heights)
