"""A stock encoder with one linear head, and trained parts that stock classes cannot express.

This file lies beside exported weights and needs torch and transformers alone:
AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True), or ...TokenClassification.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput


class DpftConfig(PreTrainedConfig):
    """Configuration of the parts.

    encoder: the stock encoder's own config, as a dict. representation: what the head reads: `mask`, `cls`, `mean`, or
    every `token`. mask, separator: token ids that locate the token to read. paired: texts come in pairs.
    words: path of the word vectors inside the encoder. prompts: places after the first token; deep: paths of the
    blocks whose input gains vectors there. shifts: paths of the dense layers whose output gains a vector. adapters:
    paths of the dense layers with an adapter, and its size.
    """

    model_type = "dpft"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        representation: str = "cls",
        mask: int | None = None,
        separator: int | None = None,
        paired: bool = False,
        words: str = "",
        prompts: int = 0,
        deep: list[str] | None = None,
        shifts: list[list[Any]] | None = None,
        adapters: list[list[Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder, self.representation = encoder or {"model_type": "bert"}, representation
        self.mask, self.separator, self.paired = mask, separator, paired
        self.words, self.prompts, self.deep = words, prompts, deep or []
        self.shifts, self.adapters = shifts or [], adapters or []


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))): (B, T, D) -> same."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.up(nn.functional.gelu(self.down(hidden)))
        return out


class DpftForSequenceClassification(PreTrainedModel):
    """Token ids -> logits (B, labels)."""

    config_class = DpftConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: DpftConfig) -> None:
        super().__init__(config)
        inner = dict(config.encoder)
        self.encoder: Any = AutoModel.from_config(AutoConfig.for_model(inner.pop("model_type"), **inner))
        for name in ("pooler", "pooler_activation"):
            if getattr(self.encoder, name, None) is not None:
                setattr(self.encoder, name, None)
        width = self.encoder.config.hidden_size
        self.head = nn.Linear(width, len(config.id2label or ()))
        if config.prompts:
            words = self.encoder.get_submodule(config.words)
            self.prompt = nn.Parameter(torch.zeros(config.prompts, words.embedding_dim))
            words.register_forward_hook(lambda _module, _args, out: self._filled(out, self.prompt))
        self.additions = nn.ParameterList(torch.zeros(config.prompts, width) for _ in config.deep)
        self.shifts = nn.ParameterList(torch.zeros(size) for _, size in config.shifts)
        self.adapters = nn.ModuleList()
        self._hook(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        allowed = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": self._widened(input_ids), "attention_mask": self._widened(allowed)}
        if token_type_ids is not None:
            inputs["token_type_ids"] = self._widened(token_type_ids)
        hidden = self.encoder(**inputs).last_hidden_state
        hidden = torch.cat([hidden[:, :1], hidden[:, 1 + self.config.prompts :]], dim=1)
        logits = self.head(self._read(hidden, input_ids, allowed))
        loss = None
        if labels is not None and self.config.problem_type == "regression":
            loss = nn.functional.mse_loss(logits[:, 0], labels.to(logits.dtype).view(-1))
        elif labels is not None and self.config.problem_type == "multi_label_classification":
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels.view(-1))
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _read(self, hidden: Tensor, ids: Tensor, allowed: Tensor) -> Tensor:
        """(B, T, D) -> (B, D): the first token, the mask token, or the mean over all tokens but padding."""
        if self.config.representation == "mean":
            weight = allowed.to(hidden.dtype).unsqueeze(-1)
            return (hidden * weight).sum(1) / weight.sum(1)
        if self.config.representation == "cls":
            return hidden[:, 0]
        masked = ids == self.config.mask
        place = torch.arange(ids.shape[1], device=ids.device)
        if self.config.paired:  # the first mask that a separator follows
            masked = masked & (ids.roll(-1, dims=1) == self.config.separator)
            read = torch.where(masked, place, ids.shape[1] - 1).min(1).values
        else:  # the last mask
            read = torch.where(masked, place, 0).max(1).values
        return hidden[torch.arange(ids.shape[0], device=ids.device), read]

    def _widened(self, rows: Tensor) -> Tensor:
        """(B, T) -> (B, T + prompts): copies of the first column after it."""
        return torch.cat([rows[:, :1].expand(-1, self.config.prompts + 1), rows[:, 1:]], dim=1)

    def _filled(self, hidden: Tensor, places: Tensor) -> Tensor:
        """`hidden` (B, T, D) with `places` (B or n rows of D) after the first token."""
        places = places.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
        return torch.cat([hidden[:, :1], places, hidden[:, 1 + places.shape[1] :]], dim=1)

    def _hook(self, config: DpftConfig) -> None:
        for number, path in enumerate(config.deep):
            self.encoder.get_submodule(path).register_forward_pre_hook(self._adding(number), with_kwargs=True)
        for number, (path, _) in enumerate(config.shifts):
            self.encoder.get_submodule(path).register_forward_hook(self._shifting(number))
        for path, size in config.adapters:
            dense = self.encoder.get_submodule(path)
            adapter = Bottleneck(dense.out_features, size)
            self.adapters.append(adapter)
            dense.register_forward_hook(lambda _module, _args, out, adapter=adapter: adapter(out))

    def _adding(self, number: int) -> Any:
        """A pre-hook of a block that adds `additions[number]` to its input at the prompts."""

        def add(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            at_prompts = hidden[:, 1 : 1 + self.config.prompts] + self.additions[number].to(hidden.dtype)
            return (self._filled(hidden, at_prompts), *args[1:]), kwargs

        return add

    def _shifting(self, number: int) -> Any:
        """A hook of a dense layer that adds `shifts[number]` to its output."""
        return lambda _module, _args, out: out + self.shifts[number].to(out.dtype)


class DpftForTokenClassification(DpftForSequenceClassification):
    """Token ids -> logits (B, T, labels)."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        logits: Any = super().forward(input_ids, attention_mask, token_type_ids).logits
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)

    def _read(self, hidden: Tensor, ids: Tensor, allowed: Tensor) -> Tensor:
        """(B, T, D) -> same: every token."""
        return hidden
