"""Texts that a language model learns to write: how rows of such a task are read, and control codes."""

from __future__ import annotations

from dataclasses import dataclass


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
