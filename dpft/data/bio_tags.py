"""BIO tags: B-TYPE begins an entity, I-TYPE goes on with it, O is outside (Ramshaw and Marcus 1995, as in CoNLL)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"
_BEGIN, _INSIDE = "B-", "I-"


def is_tag(tag: str) -> bool:
    """Whether it is O, B-TYPE or I-TYPE: one tag, not several joined by a comma."""
    return tag == OUTSIDE or (tag[:2] in (_BEGIN, _INSIDE) and len(tag) > 2 and not set(tag) & set(" \t\r\0,|"))


def type_of(tag: str) -> str:
    """TYPE of B-TYPE and I-TYPE; empty for O."""
    return tag[2:]


def types_in(sentences: Iterable[Sequence[str]]) -> list[str]:
    """The entity types that occur, sorted."""
    return sorted({type_of(tag) for tags in sentences for tag in tags} - {""})


def names(types: Iterable[str]) -> tuple[str, ...]:
    """The tags for these types, O first: the labels of a task."""
    return (OUTSIDE, *(start + name for name in types for start in (_BEGIN, _INSIDE)))


def begun(tags: Sequence[str]) -> list[str]:
    """The same entities with a B- at the start of each: some sets have one only between two that touch (IOB1)."""
    found, before = [], ""
    for tag in tags:
        starts = tag[:2] == _INSIDE and before != type_of(tag)
        found.append(_BEGIN + type_of(tag) if starts else tag)
        before = type_of(tag)
    return found


def numbered(sentences: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.int64]:
    """All sentences' tags end to end, as places in `labels`; -1 for a tag that is not among them."""
    places = {name: place for place, name in enumerate(labels)}
    return np.array([places.get(tag, -1) for tags in sentences for tag in begun(tags)], np.int64)


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word behind the last) of each entity, as `seqeval` finds them: so they are scored."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [(kind, first, last + 1) for kind, first, last in get_entities(list(tags))]
