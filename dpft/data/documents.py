"""Texts that a language model learns to write: how rows of such a task are read, chats, and control codes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dpft.errors import UserError

ASSISTANT = "assistant"
ROLES = ("system", "user", ASSISTANT)
_KEYS = ("role", "content")


@dataclass(frozen=True)
class Documents:
    """How the texts of rows are read where the model writes.

    A row's prompt is its second text (none without pairs); the loss is on its text alone. chat: texts are chats, each
    the JSON of a list of {"role", "content"}. windows: the most windows of a row.
    """

    chat: bool = False
    windows: int = 8


def control_code(label: str, prompt: str = "") -> str:
    """The prompt with its label before it, so that the model writes texts of that label (Keskar et al. 2019, Yue et al.
    2023)."""
    return f"Label: {label}\n{prompt}"


@dataclass(frozen=True)
class CodedPrompts(Sequence[str]):
    """Prompts, each with the control code of its row before it. names: of the labels. labels: (N,) their numbers.
    prompts: None where there are only control codes."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    prompts: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        prompts = [""] * len(self) if self.prompts is None else self.prompts
        for label, prompt in zip(self.labels.tolist(), prompts, strict=True):
            yield control_code(self.names[label], prompt)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return list(CodedPrompts(self.names, self.labels[at], None if self.prompts is None else self.prompts[at]))
        return control_code(self.names[int(self.labels[at])], "" if self.prompts is None else self.prompts[at])


def messages_of(cell: Any, place: str) -> list[dict[str, str]]:
    """The messages of a chat: a list of {"role", "content"}, or the JSON of one.

    Raises UserError, with the place, for another cell, an unknown role, and a chat without a turn to learn.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            cell = None
    if not isinstance(cell, list) or not all(map(_is_message, cell)):
        raise UserError(
            f"a chat must be a list of messages, each a role and a content and no more, got another in {place}; "
            "fix that row"
        )
    if not {one["role"] for one in cell} <= {*ROLES}:
        raise UserError(f"the roles of a chat must be {', '.join(ROLES)}, got another in {place}; rename it")
    turns = [one["content"] for one in cell if one["role"] == ASSISTANT]
    if not turns or not all(turn.strip() for turn in turns):
        found = "an empty one" if turns else "none"
        raise UserError(
            f"a chat must have assistant's turns to learn, got {found} in {place}; fill it in or drop the row"
        )
    return [{key: one[key] for key in _KEYS} for one in cell]


def _is_message(found: Any) -> bool:
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in _KEYS):
        return False
    return all(value is None for key, value in found.items() if key not in _KEYS)
