"""BIO tags: B-TYPE begins an entity, I-TYPE continues it, O is outside (Ramshaw and Marcus 1995, as in CoNLL)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"
_BEGIN, _INSIDE = "B-", "I-"


def is_tag(tag: str) -> bool:
    """Whether `tag` is O, B-TYPE or I-TYPE: one tag, not several joined by a comma."""
    return tag == OUTSIDE or (tag[:2] in (_BEGIN, _INSIDE) and len(tag) > 2 and not set(tag) & set(" \t\r\0,|"))


def type_of(tag: str) -> str:
    """TYPE of B-TYPE and I-TYPE; empty for O."""
    return tag[2:]


def types_in(sentences: Iterable[Sequence[str]]) -> list[str]:
    """The entity types that occur, sorted."""
    return sorted({type_of(tag) for tags in sentences for tag in tags} - {""})


def names(types: Iterable[str]) -> tuple[str, ...]:
    """All tags of the types, O first: the label names of a task."""
    return (OUTSIDE, *(start + name for name in types for start in (_BEGIN, _INSIDE)))


def begun(tags: Sequence[str]) -> list[str]:
    """Convert IOB1 to BIO: each entity begins with B-, not only one that touches the entity before it."""
    found, before = [], ""
    for tag in tags:
        starts = tag[:2] == _INSIDE and before != type_of(tag)
        found.append(_BEGIN + type_of(tag) if starts else tag)
        before = type_of(tag)
    return found


def numbered(sentences: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.int64]:
    """The tags of all sentences end to end, as indices into `labels`; -1 for an unknown tag."""
    places = {name: place for place, name in enumerate(labels)}
    return np.array([places.get(tag, -1) for tags in sentences for tag in begun(tags)], np.int64)


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, last word + 1) of each entity, by the rules of `seqeval`, which also scores them."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [(kind, first, last + 1) for kind, first, last in get_entities(list(tags))]
