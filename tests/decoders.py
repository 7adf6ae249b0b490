"""A tiny random stock decoder of each architecture, and batches of documents for them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import transformers
from torch import Tensor

from dpft.data.batch import Batch
from dpft.data.words import IGNORED
from dpft.models.language_model import LanguageModel

VOCABULARY, PADDING, FIRST, LAST = 64, 1, 2, 3
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 48, "pad_token_id": PADDING,
    "bos_token_id": FIRST, "eos_token_id": LAST, "initializer_range": 0.2,
}  # fmt: skip
NARROW: dict[str, Any] = {"head_dim": 4, "sliding_window": 16}
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_inner": 24}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {}),
    "opt": ("OPTConfig", "OPTForCausalLM", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 4}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**NARROW, "final_logit_softcapping": 5.0}),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM", NARROW),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", {}),
}
NAMES = list(CONFIGS)


def config(family: str, **changes: Any) -> Any:
    kind, _, own = CONFIGS[family]
    return getattr(transformers, kind)(**{**SMALL, **own, **changes})


@functools.cache
def _made(family: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = config(family, **dict(changes))
        cls = getattr(transformers, CONFIGS[family][1])
        made._attn_implementation = "sdpa" if cls._supports_sdpa else "eager"
        model = cls(made).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def causal(family: str, **changes: Any) -> Any:
    """A random causal model, without zeros that would hide a forgotten term."""
    return copy.deepcopy(_made(family, tuple(sorted(changes.items()))))


def language_model(family: str, **changes: Any) -> LanguageModel:
    return LanguageModel(causal(family, **changes))


def batch(lengths: tuple[int, ...] = (9, 3, 6, 9, 4), seed: int = 0, bare: int | None = None) -> Batch:
    """Documents of the given lengths, padded to the longest on the right: start, a prompt of one token, text, end.

    At each token but the first and the last the next one is judged; in row `bare` none is.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, longest = len(lengths), max(lengths, default=1)
    count = torch.arange(longest)
    ends = torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(4, VOCABULARY, (rows, longest), generator=generator)
    ids[:, :1] = FIRST
    ids[count == ends - 1] = LAST
    inside = count < ends
    ids[~inside] = PADDING
    judged = (count > 0) & (count < ends - 1)
    if bare is not None:
        judged[bare] = False
    labels = torch.where(judged, ids.roll(-1, 1), IGNORED)
    read = torch.zeros(rows, dtype=torch.long)
    return Batch(ids, None if bool(inside.all()) else inside, None, read, labels)


def on_the_left(of: Batch) -> Batch:
    """The same rows, padded on the left."""
    assert of.allowed is not None
    order = of.allowed.int().argsort(dim=1, stable=True)

    def moved(rows: Tensor) -> Tensor:
        return rows.gather(1, order)

    return Batch(moved(of.ids), moved(of.allowed), None, of.read, moved(of.labels))


class Mean:
    """The loss of a document: the mean over its judged tokens, 0 where there is none."""

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs[:, 0] / outputs[:, 1].clamp(min=1)
