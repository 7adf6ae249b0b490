"""The page in a real browser: sort, filter, hover, narrow, dark, print, and nothing that a label could run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dpft.reports import page
from dpft.reports.reading.folders import find, read
from dpft.reports.report import build
from dpft.reports.watch import LiveReport, Server

from tests.reports.conftest import Maker, audit, change

Open = Callable[..., Any]
EVIL = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, or another by that name."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; pip install 'dpft[dev]'")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs a browser; apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def shown(browser: Any, make: Maker, tmp_path: Path) -> Iterator[Open]:
    """A factory: shown(width=390) -> the page of three methods' runs; what went wrong in it is in `.wrong`."""
    contexts = []

    def load(width: int = 1200, scheme: str = "light") -> Any:
        for number, (method, value) in enumerate((("slash", 0.9), ("lora", 0.85), ("linear", 0.7))):
            for seed in range(2):
                make(
                    f"{method}-{seed}", method=method, seed=seed, value=value + seed / 100, trainable=10 ** (number + 3)
                )
        audit(make(f"evil{EVIL.replace('/', '')}", method="bitfit", task=EVIL, model=EVIL))
        change(make("broken"), "run", format=EVIL)
        file = tmp_path / "report.html"
        file.write_text(page.render(build([read(folder) for folder in find([tmp_path / "runs"])])))
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        return opened(context, file.as_uri())

    yield load
    for context in contexts:
        context.close()


def opened(context: Any, url: str) -> Any:
    tab = context.new_page()
    tab.wrong = []
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.on("console", lambda message: tab.wrong.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: tab.wrong.append(request.url) if request.url != url else None)
    tab.goto(url)
    return tab


def column(tab: Any, table: str, place: int) -> list[str]:
    found: list[str] = tab.eval_on_selector_all(
        f"[aria-label^='{table}'] tbody tr:not(.off)", f"rows => rows.map(row => row.cells[{place}].textContent.trim())"
    )
    return found


def test_the_page_runs_and_no_label_does(shown: Open) -> None:
    tab = shown()
    assert tab.wrong == []
    assert tab.title() != "run"
    assert tab.locator("img").count() == 0
    assert EVIL in tab.locator("h2").first.text_content()


def test_a_heading_sorts_numbers_as_numbers_and_puts_the_missing_last(shown: Open) -> None:
    tab = shown()
    head = tab.locator("[aria-label='Every run'] th button", has_text="parameters")
    head.click()
    up = column(tab, "Every run", 10)
    assert up == ["1,000", "1,000", "1,794", "10,000", "10,000", "100,000", "100,000", "—"]
    head.click()
    assert column(tab, "Every run", 10) == [*up[-2::-1], "—"]
    assert head.locator("..").get_attribute("aria-sort") == "descending"
    assert tab.wrong == []


def test_words_filter_runs_and_say_how_many_are_left(shown: Open) -> None:
    tab = shown()
    tab.locator("input[type=search]").fill("LORA finished")
    assert column(tab, "Every run", 0) == ["lora-0", "lora-1"]
    assert column(tab, "What each run promises", 0) == ["lora-0", "lora-1"]
    assert column(tab, "Claimed", 0) == []
    assert tab.locator("output").text_content() == "2 of 8"
    tab.locator("input[type=search]").fill("")
    assert len(column(tab, "Every run", 0)) == 8


def test_the_legend_hides_a_method_in_every_chart_and_table(shown: Open) -> None:
    tab = shown()
    drawn = tab.locator("g[data-series=lora]:visible")
    before = drawn.count()
    chip = tab.locator(".chip", has_text="lora")
    chip.click()
    assert before >= 3
    assert drawn.count() == 0
    assert chip.get_attribute("aria-pressed") == "false"
    assert tab.locator("tr[data-series=lora]:visible").count() == 0
    chip.click()
    assert drawn.count() == before


def test_a_point_tells_of_itself_to_pointer_and_keyboard(shown: Open) -> None:
    tab = shown()
    tip, point = tab.locator(".tip"), tab.locator(".chart.broad g[data-series=slash] .point").first
    assert not tip.is_visible()
    point.scroll_into_view_if_needed()
    # What was scrolled says so in the next frame, and hides the tip.
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    point.hover()
    tip.wait_for(state="visible")
    assert tip.text_content().startswith("slash\n90.5 ± 0.7 %\nε = 3 (proven 2.997)\n2 runs")
    box = tip.bounding_box()
    assert 0 <= box["x"] <= 1200 - box["width"]
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    point.focus()
    assert tip.is_visible()


@pytest.mark.parametrize("width", [320, 390, 700, 1600])
def test_no_width_scrolls_the_page_sideways_or_makes_its_text_small(shown: Open, width: int) -> None:
    tab = shown(width)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = tab.eval_on_selector_all(
        ".chart .tick", "all => all.map(one => one.getBoundingClientRect().height).filter(height => height > 0)"
    )
    assert min(sizes) > 9.5
    assert tab.locator(".chart.slim:visible").count() == (2 if width <= 680 else 0)


def contrast(tab: Any, what: str) -> float:
    """The lowest contrast of text with the page (WCAG 2.2)."""
    found: float = tab.evaluate(
        """what => {
        const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const paper = light(getComputedStyle(document.documentElement).backgroundColor);
        return Math.min(...[...document.querySelectorAll(what)].map((one) => {
            const style = getComputedStyle(one), ink = light(one.closest("svg") ? style.fill : style.color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); })); }""",
        what,
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_by_light_and_by_dark(shown: Open, scheme: str) -> None:
    tab = shown(scheme=scheme)
    paper = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 27)")
    assert contrast(tab, "h1, h2, td, th button, .note, .about, .tick, .axis") >= 4.5
    assert contrast(tab, ".mark:not(.hollow)") >= 2.5


def test_print_shows_everything_on_white(shown: Open, tmp_path: Path) -> None:
    tab = shown(scheme="dark")
    tab.locator(".chip", has_text="lora").click()
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("input[type=search]").is_visible()
    clipped = "all => all.filter(one => one.scrollHeight > one.clientHeight + 2).length"
    assert tab.eval_on_selector_all(".scroll", clipped) == 0
    assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_a_watched_page_comes_again_as_it_was(browser: Any, make: Maker, tmp_path: Path) -> None:
    make("a")
    make("b", method="lora")
    with Server(LiveReport([tmp_path / "runs"]), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        context = browser.new_context()
        try:
            tab = context.new_page()
            tab.goto(server.url)
            tab.locator(".chip", has_text="lora").click()
            tab.locator("input[type=search]").fill("slash")
            make("late", value=0.777, seed=5)
            tab.get_by_text("late", exact=True).first.wait_for(timeout=60_000)
            tab.wait_for_function("document.querySelector('input[type=search]').value === 'slash'")
            hidden = "![...document.querySelectorAll('tr[data-series=lora]')].some(row => row.offsetParent)"
            tab.wait_for_function(hidden)
        finally:
            context.close()
            server.shutdown()
            thread.join()
