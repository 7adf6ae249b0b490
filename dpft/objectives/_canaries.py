"""Canaries of a kind of task: synthetic rows to train on, and what a model that knows one would write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from dpft.data.examples import Examples

_SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "po", "ri", "su", "ta", "vo")


@dataclass(frozen=True)
class CanaryTexts:
    """Rows, and which of them are `random`, so that exposure is of those. prefixes: for a model that writes, what it
    is given to write after; secrets: what follows there in the rows."""

    rows: Examples
    random: NDArray[np.bool_]
    prefixes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ingredients:
    """What canaries are made of: `messages` with their label `true`, 0 or 1, and random `words`."""

    messages: Sequence[str]
    true: Sequence[int]
    words: Sequence[str]

    def __len__(self) -> int:
        return len(self.messages) + len(self.words)


def made_up_secret(rng: Random) -> tuple[str, str]:
    """A question and its answer, of eight random digits (Carlini et al. 2019, section 4.1, have nine)."""
    first, last = ("".join(rng.choice(_SYLLABLES) for _ in range(3)).capitalize() for _ in range(2))
    return f"The code of {first} {last} is", f"{rng.randrange(10**4):04d} {rng.randrange(10**4):04d}"
