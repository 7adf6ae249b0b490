"""Verification of an exported model that writes: its token ids, logits and greedy texts must be the run's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpft.data.batch import Batch
from dpft.data.documents import control_code
from dpft.data.words import IGNORED
from dpft.errors import UserError
from dpft.exports.source import ExportSource
from dpft.exports.verify import TOLERANCE
from dpft.inference.writing import Sampling
from dpft.models.architectures import longest
from dpft.tasks import text_sample
from dpft.tokens.encode_documents import prompt_tokens

_TOKENS, _NEW = 64, 16  # of a row, and that are written


def example_prompts(source: ExportSource) -> list[str]:
    """Prompts as the run was trained on: after control codes, in chats, or free ones."""
    made, _ = text_sample.generate(2, seed=11)
    free = [made[0].split()[0], " ".join(made[1].split()[:4])]
    if source.spec.messages is not None:
        return free
    if source.labels:
        return [control_code(name, text) for name, text in zip(source.labels, ["", *free], strict=False)]
    return ["", *free]


def usual_prompt(source: ExportSource) -> str:
    """The prompt of usage lines."""
    if source.spec.messages is not None:
        return "a question"
    if source.labels:
        return control_code(source.labels[0])
    return "a prompt" if source.trained.paired else ""


def inputs(tokenizer: Any, prompts: Sequence[str], chat: bool) -> Any:
    """`input_ids` and `attention_mask`, (B, T), of prompts, as a user makes them."""
    if not chat:
        return tokenizer(list(prompts), padding=True, return_tensors="pt")
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )


def check(source: ExportSource, folder: Path, model: Any, **ending: Any) -> None:
    """Compare `model`, loaded without dpft, and the tokenizer in `folder` with the run.

    ending: arguments of `generate`. Raises UserError where token ids, logits or greedy texts differ.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts, chat = example_prompts(source), source.spec.messages is not None
    made = inputs(tokenizer, prompts, chat)
    wanted = prompt_tokens(prompts, source.trained.tokenizer, chat=chat)
    found = [ids[mask.bool()].tolist() for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True)]
    if found != wanted:
        raise UserError(
            "an exported tokenizer must give the token ids of training, got others; nothing was written, report this"
        )
    _check_logits(source, model, wanted)
    _check_writing(source, model, tokenizer, made, ending)


@torch.inference_mode()
def _check_logits(source: ExportSource, model: Any, starts: Sequence[list[int]]) -> None:
    """The logits of every token of generated texts, after the prompts."""
    texts, _ = text_sample.generate(len(starts), seed=12)
    most = min(_TOKENS, longest(source.trained.adapted.model.backbone))
    for start, text in zip(starts, texts, strict=True):
        ids = [*start, *source.trained.tokenizer(text, add_special_tokens=False)["input_ids"]][:most]
        wanted = run_logits(source, ids)
        found = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        difference = float((wanted - found).abs().max() / wanted.abs().max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"an export must give the run's logits to {TOLERANCE:g} of their size, got {difference:.1e}; "
                "nothing was written, export in another --format and report this"
            )


@torch.inference_mode()
def _check_writing(source: ExportSource, model: Any, tokenizer: Any, made: Any, ending: dict[str, Any]) -> None:
    """What is written greedily: the run's texts, but for tokens that are as likely as the run's to rounding."""
    width = made["input_ids"].shape[1]
    most = max(1, min(_NEW, longest(source.trained.adapted.model.backbone) - width))
    wanted = source.trained.write(example_prompts(source), Sampling(temperature=0.0, max_new_tokens=most))
    new = model.generate(**made, do_sample=False, max_new_tokens=most, **ending)[:, width:]
    for row, (ids, mask, one) in enumerate(zip(made["input_ids"], made["attention_mask"], wanted, strict=True)):
        written, start = _until_end(new[row].tolist(), tokenizer.eos_token_id), ids[mask.bool()].tolist()
        text = tokenizer.decode(written, skip_special_tokens=True)
        stopped = all(ids == tokenizer.pad_token_id for ids in new[row].tolist()[len(written) :])
        if text == one.text and stopped:
            continue
        own = source.trained.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        logits = run_logits(source, [*start, *written])[len(start) - 1 : -1]
        behind = float((logits.max(1).values - logits.gather(1, torch.tensor([written]).T)[:, 0]).max())
        if text != own or not stopped or not behind <= TOLERANCE * float(logits.abs().max()):
            raise UserError(
                "an export must write what the run writes, got another greedy text; nothing was written, export in "
                "another --format and report this"
            )


def run_logits(source: ExportSource, ids: Sequence[int]) -> Tensor:
    """The run's logits after each token of one row: (T,) -> (T, V)."""
    model: Any = source.trained.adapted.model
    row = torch.tensor([list(ids)])
    found: Tensor = model.logits(Batch(row, None, None, torch.zeros(1).long(), torch.full_like(row, IGNORED)))
    return found[0].float()


def _until_end(ids: list[int], end: int) -> list[int]:
    """`ids` up to the end token, which is one of them."""
    return ids[: ids.index(end) + 1] if end in ids else ids
