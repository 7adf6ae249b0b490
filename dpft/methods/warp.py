"""WARP: trainable prompt embeddings at the input (Hambardzumyan et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpft.models.adapted import AdaptedModel, CannotMerge, Traits, attached, check_count
from dpft.models.architectures import architecture, replace
from dpft.models.architectures.sizes import skeleton
from dpft.models.base import AdaptableModel
from dpft.models.prompt_slots import PromptedEmbedding, check_prompt_slots
from dpft.models.shared_vector import PerExample


class Prompt(nn.Module):
    """The same n vectors for each example, passed to the embedding: (B, n, D)."""

    def __init__(self, value: Tensor, site: PromptedEmbedding) -> None:
        super().__init__()
        self.vectors = PerExample(value)
        self._site = (site,)  # a tuple: it is registered in the backbone, and only there

    def forward(self, rows: Tensor) -> None:
        self._site[0].prompt = self.vectors(rows)


@dataclass(frozen=True)
class Warp:
    """Word-level adversarial reprogramming: n trainable embeddings at the input (Hambardzumyan et al. 2021, section 3).

    tokens: n. They stand right after the first token and are never read. They start as noise of the word vectors'
    own mean and deviation, from the public seed. Trainable parameters: n D + C(D + 1). Default: the paper's largest.
    """

    tokens: int = 20
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=False, multi_layer=False)
    non_private_rate: ClassVar[float] = 0.02

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens, example=20)

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        check_prompt_slots(model.backbone, self.tokens)
        path = architecture(model.backbone.config).words
        words = model.backbone.get_submodule(path)
        assert isinstance(words, nn.Embedding)
        table = words.weight.detach().float().cpu()
        noise = torch.randn(self.tokens, table.shape[1], generator=torch.Generator().manual_seed(seed))
        site = PromptedEmbedding(words)
        replace(model.backbone, path, site)
        model.prompts = self.tokens
        prompt = Prompt(noise * table.std(0) + table.mean(0), site)
        model.before = prompt
        return attached(model, [("prompt", prompt.vectors.value)])

    def merge(self, model: AdaptableModel) -> nn.Module:
        raise CannotMerge("a prompt needs input positions that the stock model does not have")

    def trainable(self, config: Any, labels: int) -> int:
        encoder = skeleton(config)
        check_prompt_slots(encoder, self.tokens)
        words = encoder.get_submodule(architecture(config).words)
        assert isinstance(words, nn.Embedding)
        return self.tokens * words.embedding_dim + labels * (int(config.hidden_size) + 1)


METHOD = Warp
