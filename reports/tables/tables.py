"""A table, and its output as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "ε": r"$\varepsilon$", "δ": r"$\delta$", "σ": r"$\sigma$", "±": r"$\pm$", "−": r"$-$", "∞": r"$\infty$",
    "×": r"$\times$", "≤": r"$\leq$", "·": r"$\cdot$", "—": "---", "–": "--", "…": r"\ldots{}",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")


@dataclass(frozen=True)
class Column:
    """A column. `numeric` ones are right-aligned and sorted by value. `hint`: the meaning of the heading, with unit."""

    name: str
    numeric: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Text:
    """A cell: shown text, sort value, and emphasis. `share`: length of a bar behind it, 0 to 1."""

    shown: str
    by: float | None = None
    strong: bool = False
    hint: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """`name` is its file's; `series` gives for each row the series that it belongs to, where it does to one."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Text]]
    note: str = ""
    series: Sequence[str] = field(default_factory=tuple)


def markdown(table: Table) -> str:
    """A pipe table below its title."""
    head = [plain(column.name) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[f"**{plain(c.shown)}**" if c.strong else plain(c.shown) for c in row] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join([f"#### {plain(table.title)}", "", *lines, *(["", plain(table.note)] if table.note else [])])


def latex(table: Table) -> str:
    """A booktabs table. Needs \\usepackage{booktabs}."""
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    rows = [[rf"\textbf{{{_texed(c.shown)}}}" if c.strong else _texed(c.shown) for c in row] for row in table.rows]
    body = [f"{' & '.join(cells)} \\\\" for cells in rows]
    head = f"{' & '.join(_texed(column.name) for column in table.columns)} \\\\"
    caption = _texed(". ".join(filter(None, (table.title, table.note))))
    lines = [
        r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


def safe_for_spreadsheets(text: str) -> str:
    """A text that no spreadsheet interprets as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def plain(text: str) -> str:
    """Plain text as Markdown shows it: nothing in it is markup or HTML."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _texed(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
