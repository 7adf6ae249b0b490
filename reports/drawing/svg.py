"""The few pieces of SVG that the page's charts are made of. Colours are the page's own, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# Markers around (0, 0), by the name that matplotlib has for each.
SHAPES = {
    "o": "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z", "s": "M-4.1-4.1h8.2v8.2h-8.2z", "^": "M0-5.2L5 3.8H-5z",
    "D": "M0-5.7L5.3 0 0 5.7-5.3 0z", "v": "M0 5.2L5-3.8H-5z",
    "P": "M-1.8-5.2h3.6v3.4h3.4v3.6h-3.4v3.4h-3.6v-3.4h-3.4v-3.6h3.4z",
    "X": "M-5.2-3.2L-3.2-5.2 0-2 3.2-5.2 5.2-3.2 2 0 5.2 3.2 3.2 5.2 0 2-3.2 5.2-5.2 3.2-2 0z",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels. `log`: by the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; `class_` is class, and a_b is a-b. Texts and values are escaped."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    spelt = Markup("").join(Markup(' {}="{}"').format(key, _short(value)) for key, value in named)
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(Markup(name), spelt, inner, Markup(name))


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    return tag("text", words, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def path(points: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """Straight lines through `points`."""
    return tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), **attributes)


def marker(shape: str, x: float, y: float, **attributes: object) -> Markup:
    """A marker at a point."""
    return tag("path", d=SHAPES[shape], transform=f"translate({x:.1f} {y:.1f})", **attributes)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most`."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
