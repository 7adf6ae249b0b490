"""Encodes texts that a language model learns to write: prompts and windows, and at each token the next one as label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.documents import ASSISTANT, Documents, messages_of
from dpft.data.encoded import Encoded, clean, tokens_of
from dpft.data.examples import Examples
from dpft.data.units import Units
from dpft.data.words import IGNORED
from dpft.errors import UserError

_CHUNK = 4096

# A text's token ids, and which of them are judged.
_Sequence = tuple[NDArray[np.int32], NDArray[np.bool_]]


def encode_documents(rows: Examples, documents: Documents, tokenizer: Any, max_length: int) -> Encoded:
    """Encode N texts as M >= N windows of at most `max_length` tokens.

    A text is [start] + prompt + text + [end], of which text and end are judged; a chat is what the tokenizer's template
    makes of it, of which the assistant's turns are judged, with the token that ends them. The windows of a text are one
    unit, or part of the unit of its row. Raises UserError, with the row's number, for a text that has no judged token
    in its first window.
    """
    whole = _chats(rows, tokenizer) if documents.chat else _texts(rows, tokenizer)
    ids, labels, lengths, owners = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [], []
    for number, (tokens, judged) in enumerate(whole):
        windows = _windows(tokens, judged, max_length, documents.windows)
        if not windows:
            raise UserError(
                f"a prompt must leave room for what is learnt in the {max_length} tokens of a window, got one that "
                f"leaves none in row {number + 1}; pass a larger --max-length, or shorten it"
            )
        ids += [own for own, _ in windows]
        labels += [own for _, own in windows]
        lengths += [len(own) for own, _ in windows]
        owners += [number] * len(windows)
    return _encoded(rows, tokenizer, np.concatenate(ids), np.concatenate(labels), lengths, np.array(owners, np.int64))


def prompt_tokens(prompts: Sequence[str], tokenizer: Any, *, chat: bool = False) -> list[list[int]]:
    """The tokens after which a text is written: [start] + prompt; with `chat` a user's turn in the chat template."""
    if not chat:
        start, _ = _ends(tokenizer)
        return [[start, *tokens] for tokens in tokens_of(prompts, tokenizer)]
    _check_template(tokenizer)
    turns = [[{"role": "user", "content": prompt}] for prompt in clean(prompts)]
    return tokens_of([_render(turn, tokenizer, row, open_turn=True) for row, turn in enumerate(turns, 1)], tokenizer)


def _encoded(
    rows: Examples, tokenizer: Any, ids: NDArray[np.int32], labels: NDArray[np.int64], lengths: Sequence[int],
    owners: NDArray[np.int64],
) -> Encoded:  # fmt: skip
    sizes = np.array(lengths, np.int32)
    units = None
    if rows.units is not None:
        units = Units.of(np.asarray(rows.units)[owners])
    elif len(owners) > len(rows):
        units = Units.of(owners)
    return Encoded(
        ids, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), sizes, np.zeros(len(sizes), np.int32), labels,
        int(tokenizer.pad_token_id or 0), typed=False, units=units, owners=owners,
    )  # fmt: skip


def _windows(
    ids: NDArray[np.int32], judged: NDArray[np.bool_], max_length: int, most: int
) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """(ids, labels) of the first `most` windows with a judged token; none where the first window has none.

    Each window starts with the last token of the one before, which it does not judge, so that each judged token is
    judged once.
    """
    found = []
    for start in range(0, max(1, len(ids) - 1), max_length - 1):
        own = ids[start : start + max_length]
        labels = np.full(len(own), IGNORED, np.int64)
        labels[:-1] = np.where(judged[start + 1 : start + len(own)], own[1:], IGNORED)
        if (labels != IGNORED).any():
            found.append((own, labels))
        if not found or len(found) == most:
            break
    return found


def _texts(rows: Examples, tokenizer: Any) -> Iterator[_Sequence]:
    start, end = _ends(tokenizer)
    texts, prompts = iter(rows.texts), None if rows.pairs is None else iter(rows.pairs)
    number = 0
    while some := _next(texts, _CHUNK):
        before = [[]] * len(some) if prompts is None else tokens_of(_next(prompts, len(some)), tokenizer)
        for text, own, prompt in zip(some, tokens_of(some, tokenizer), before, strict=True):
            number += 1
            if not text.strip():
                raise UserError(
                    f"a text to learn must not be empty, got one in row {number}; fill it in or drop the row"
                )
            ids = np.array([start, *prompt, *own, end], np.int32)
            yield ids, np.arange(len(ids)) > len(prompt)


def _next(texts: Iterator[str], count: int) -> list[str]:
    return [text for _, text in zip(range(count), texts, strict=False)]


def _ends(tokenizer: Any) -> tuple[int, int]:
    """The ids of the start and end token."""
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            "a model that writes needs a token that ends a text, got a tokenizer without; pass another --model"
        )
    start = tokenizer.bos_token_id
    return int(end if start is None else start), int(end)


def _chats(rows: Examples, tokenizer: Any) -> Iterator[_Sequence]:
    _check_template(tokenizer)
    if rows.pairs is not None:
        raise UserError("chats hold their prompts themselves, got prompts beside them; drop --prompt and --label")
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for number, text in enumerate(rows.texts, 1):
        messages = [
            {key: clean([value])[0] for key, value in one.items()} for one in messages_of(text, f"row {number}")
        ]
        parts = _turns(messages, tokenizer, number)
        ids: list[int] = []
        judged: list[bool] = []
        for part, tokens in enumerate(tokens_of(parts, tokenizer)):
            ids += tokens
            judged += _until_end(tokens, special) if part % 2 else [False] * len(tokens)
        last = max((at for at, own in enumerate(judged) if own), default=-1)  # what follows is read for nothing
        yield np.array(ids[: last + 1], np.int32), np.array(judged[: last + 1], bool)


def _until_end(tokens: Sequence[int], special: set[int]) -> list[bool]:
    """Which tokens of an assistant's turn are judged: all up to the special token that ends it, if there is one."""
    last = max((at for at, token in enumerate(tokens) if token in special), default=len(tokens) - 1)
    return [at <= last for at in range(len(tokens))]


def _turns(messages: list[dict[str, str]], tokenizer: Any, number: int) -> list[str]:
    """A chat as text in parts: before an assistant's turn, that turn, what is before the next, and so on."""
    parts, whole = [], ""
    for place, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        before = _render(messages[:place], tokenizer, number, open_turn=True)
        after = _render(messages[: place + 1], tokenizer, number, open_turn=False)
        if not before.startswith(whole) or not after.startswith(before) or len(after) == len(before):
            raise UserError(
                "a chat template must render each turn as a continuation of the ones before, got one that renders "
                f"the turns of row {number} otherwise; pass another --model, or chats of one assistant's turn"
            )
        parts += [before[len(whole) :], after[len(before) :]]
        whole = after
    return parts


def _render(messages: list[dict[str, str]], tokenizer: Any, number: int, *, open_turn: bool) -> str:
    """The template's text of messages, with the assistant's turn opened. Raises UserError if it refuses them."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn))
    except (TemplateError, TypeError, ValueError, LookupError):
        raise UserError(
            f"a chat must suit the model's chat template, got one that it refuses in row {number}; check its roles and "
            "their order"
        ) from None


def _check_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "chats need a model with a chat template, got a tokenizer without; pass another --model, or --text and "
            "--prompt instead of --messages"
        )
