"""The style shared by all figures: colours, markers, dashes and axes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a page needs the looks, not the library
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = Literal["best", "lower right", "upper right"]
GREY = "0.85"


@dataclass(frozen=True)
class SeriesStyle:
    """The style of a series: colour, marker and dashes each distinguish it alone."""

    colour: str
    marker: str
    dashes: tuple[float, ...]


# Okabe and Ito (2008), without yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (1.5, 1.5),
    (6, 2, 1.5, 2),
    (9, 3),
    (3, 1.5),
    (6, 2, 1.5, 2, 1.5, 2),
)


def look(place: int) -> SeriesStyle:
    """The look of the series at `place`. Beyond seven, other pairs of colour and marker come."""
    turn = place // len(COLOURS)
    return SeriesStyle(
        COLOURS[place % len(COLOURS)], MARKERS[(place + turn) % len(MARKERS)], DASHES[(place + 2 * turn) % len(DASHES)]
    )


def figure(width: float, height: float) -> Figure:
    """An empty figure in inches that no window system is asked for, whatever the user has configured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(made)
    return made


def bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def gridded(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """A faint grid behind, and no box around."""
    axes.grid(True, axis=axis, color=GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    bare(axes)


def legend(axes: Axes, place: Place) -> None:
    axes.legend(loc=place, frameon=True, framealpha=1, edgecolor="0.7", fontsize=9)


def legend_below(drawn: Figure, looks: Mapping[str, SeriesStyle], title: str) -> None:
    """One legend for all panels: each label with its line and marker."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, dashes=look.dashes or (None, None), linewidth=1.4,
               markersize=5.5, label=label)
        for label, look in looks.items()
    ]  # fmt: skip
    columns = max(1, int(drawn.get_figwidth() / 2.1))
    drawn.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
                 handlelength=3.4, title=title, title_fontsize=9)  # fmt: skip


def rows_named(axes: Axes, names: Sequence[str]) -> None:
    """One row a name, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    bare(axes)
    axes.tick_params(axis="y", length=0)


def rendered(drawn: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The figure as a file's content. An SVG keeps its text as text."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dpft"}):
        drawn.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None)
    drawn.set_layout_engine("none")  # its places are found: another format keeps them
    return stream.getvalue()
