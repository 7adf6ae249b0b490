"""What a trained language model writes after prompts: batched decoding with transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpft.errors import UserError, is_positive, is_whole, require, require_whole
from dpft.machine.hardware import Hardware
from dpft.models.architectures import longest
from dpft.models.language_model import LanguageModel
from dpft.objectives.language import Continuation
from dpft.tokens.encode_documents import prompt_tokens

_ROWS = 64  # of a batch: more gain little on a CPU, and their key-value cache grows


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature: 0 takes the likeliest token; top_p: nucleus sampling (Holtzman et al. 2020).

    seed: public; the same seed, prompts and batches give the same texts on the same machine.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        cold = self.temperature == 0 or is_positive(self.temperature)
        require(cold, "temperature must be a finite number from 0 up", self.temperature, "pass --temperature 1")
        share = is_positive(self.top_p) and self.top_p <= 1
        require(share, "top-p must lie above 0 and at most at 1", self.top_p, "pass --top-p 0.95")
        rule = "max-new-tokens must be a whole number above 0"
        require_whole(self.max_new_tokens, 1, rule, "pass --max-new-tokens")
        seed = is_whole(self.seed, 0) and self.seed < 2**63
        require(seed, "seed must be a whole number from 0 to 2^63 - 1", self.seed, "pass --seed")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `generate`."""
        if self.temperature == 0:
            return {"do_sample": False, "max_new_tokens": self.max_new_tokens}
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {"do_sample": True, "max_new_tokens": self.max_new_tokens, **chosen}


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Writer:
    """A language model with its tokenizer. chat: prompts are a user's turns, put through the chat template."""

    model: LanguageModel
    tokenizer: Any
    hardware: Hardware
    chat: bool = False

    def write(self, prompts: Sequence[str], sampling: Sampling = GREEDY) -> list[Continuation]:
        """A continuation of each prompt, in order. Raises UserError for a prompt that leaves no room to write."""
        found: dict[int, Continuation] = {}
        for rows, texts in self.batches(prompts, sampling):
            found.update(zip(rows, texts, strict=True))
        return [found[row] for row in range(len(prompts))]

    def batches(
        self, prompts: Sequence[str], sampling: Sampling, first: int = 0
    ) -> Iterator[tuple[list[int], list[Continuation]]]:
        """Yield numbers of prompts and their continuations, a batch at a time, prompts of like length together.

        first: the number of the first batch to write; those before it are skipped. Each batch draws from its own seed.
        """
        tokens = prompt_tokens(prompts, self.tokenizer, chat=self.chat)
        self._check_room([len(ids) for ids in tokens], sampling.max_new_tokens)
        order = np.argsort([-len(ids) for ids in tokens], kind="stable")
        for number, start in enumerate(range(0, len(order), _ROWS)):
            if number < first:
                continue
            rows = [int(row) for row in order[start : start + _ROWS]]
            yield rows, self._batch([tokens[row] for row in rows], sampling, number)

    def _check_room(self, lengths: Sequence[int], new: int) -> None:
        most = longest(self.model.backbone) - self.model.prompts
        for row, length in enumerate(lengths, 1):
            if length + new > most:
                raise UserError(
                    f"prompt and new tokens must fit into the model's {most} tokens, got a prompt of {length} in row "
                    f"{row} and {new} new ones; shorten it or pass a smaller --max-new-tokens"
                )

    @torch.inference_mode()
    def _batch(self, tokens: Sequence[Sequence[int]], sampling: Sampling, number: int) -> list[Continuation]:
        width, end = max(map(len, tokens)), int(self.tokenizer.eos_token_id)
        padding = end if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)
        ids = torch.full((len(tokens), width), padding)
        allowed = torch.zeros(len(tokens), width, dtype=torch.bool)
        for row, own in enumerate(tokens):
            ids[row, width - len(own) :] = torch.tensor(own)
            allowed[row, width - len(own) :] = True
        device = self.hardware.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((sampling.seed * 1_000_003 + number) % 2**63)
            new = self.model.generate(
                ids.to(device), allowed.to(device), eos_token_id=end, pad_token_id=padding, **sampling.options
            )
        return [self._continuation(row, end) for row in new.tolist()]

    def _continuation(self, ids: list[int], end: int) -> Continuation:
        if end in ids:
            return Continuation(self._text(ids[: ids.index(end)]), "stop")
        return Continuation(self._text(ids), "length")

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
