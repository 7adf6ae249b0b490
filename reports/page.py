"""One HTML page that needs nothing else: style, script and charts are inside, and its policy lets nothing be loaded."""

from __future__ import annotations

import base64
import hashlib
import math
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files

import jinja2
from dpft.reports.drawing import charts
from dpft.reports.reading import formatting
from dpft.reports.reading.cells import Setting
from dpft.reports.report import CAVEAT, Report
from markupsafe import Markup


def render(report: Report, watched: str = "") -> str:
    """The page. `watched`: the state that it shows, where a server has it look for a newer one."""
    script, covered, uncovered = _asset("page.js"), *report.coverage()
    return _template().render(
        report=report, places=report.places, privacy=report.of_privacy(), covered=covered, uncovered=uncovered,
        heading=_heading(report), facts=_facts(report), caveat=CAVEAT, version=version("dpft"), watched=watched,
        about=about, points=_points, epsilon=formatting.epsilon, swatch=charts.swatch, wide=charts.WIDE,
        narrow=charts.NARROW, chart=lambda s, frame: charts.privacy_utility(s, report.places, frame),
        parameters=lambda s, budget: charts.parameters(s, report.places, budget),
        css=Markup(_asset("page.css")), js=Markup(script), policy=_policy(script, bool(watched)),
    )  # fmt: skip


def _policy(script: str, watched: bool) -> str:
    """No other script than this page's own runs, whatever a label holds."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    reached = "; connect-src 'self'" if watched else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'{reached}"


def _heading(report: Report) -> str:
    """The heading: methods and tasks, in one line."""
    tasks = list(dict.fromkeys(run.spec.rows_name for run in report.runs if run.spec))
    methods = {run.spec.method for run in report.runs if run.spec}
    named = ", ".join(tasks[:4]) + (" …" if len(tasks) > 4 else "")
    return f"{formatting.plural(len(methods), 'method')} on {named}" if tasks else "no run yet"


def _facts(report: Report) -> list[tuple[str, str]]:
    budgets = sorted({budget for setting in report.settings for budget in setting.budgets if math.isfinite(budget)})
    audited = sum(run.audit is not None for run in report.runs)
    states = [f"{n} {state}" for state in ("unfinished", "broken") if (n := report.in_state(state))]
    return [
        ("finished runs", ", ".join([f"{report.in_state('finished'):,}", *states])),
        ("privacy budgets ε", ", ".join(f"{budget:g}" for budget in budgets) or "none"),
        ("audited", str(audited) if audited else "none"),
    ]


def about(setting: Setting) -> str:
    """What the runs of a setting have in common, in one line."""
    facts = setting.facts
    parts = [facts["metric"] + " on the validation rows", f"{facts['units']:,.0f} {_unit(setting)} protected"]
    if facts["delta"] is None:
        parts[1] = "nothing private"
    else:
        parts += [f"δ = {facts['delta']:g}", facts["adjacency"]]
    if facts["max_per_unit"]:
        parts.append(f"at most {facts['max_per_unit']:.0f} examples a {facts['unit']}")
    if facts["canaries"]:
        parts.append(f"{facts['canaries']:.0f} canaries: not for use")
    return " · ".join(parts)


def _unit(setting: Setting) -> str:
    return f"{setting.facts['unit']}s"


def _points(setting: Setting) -> str:
    """The explanation of points and bars."""
    cells = [cell for series in setting.series for cell in series.cells]
    if all(cell.n == 1 for cell in cells):
        return "A point is one run; hollow, for one run has no spread."
    hollow = " Hollow: one run, no spread." if any(cell.n == 1 for cell in cells) else ""
    return (
        f"A point is the mean of {formatting.counts(cells)} (small circles), its bar one standard deviation to each "
        f"side.{hollow}"
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    house = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    return house.from_string(_asset("page.html"))


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return files("dpft.reports").joinpath(name).read_text(encoding="utf-8")
