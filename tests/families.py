"""A tiny random stock encoder of each architecture, and batches for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers

from dpft.data.batch import Batch
from dpft.models.architectures import without_pooler
from dpft.models.classifier import Classifier, initialise_head

VOCABULARY, PADDING, FIRST = 60, 1, 2
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": PADDING, "bos_token_id": 2,
    "eos_token_id": 3, "initializer_range": 0.2,
}  # fmt: skip
DEBERTA: dict[str, Any] = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "position_biased_input": False, "position_buckets": 8, "type_vocab_size": 0,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {}),
    "xlm-roberta": ("XLMRoberta", {}),
    "electra": ("Electra", {"embedding_size": 8}),
    "distilbert": ("DistilBert", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}),
    "mpnet": ("MPNet", {}),
    "deberta-v2": ("DebertaV2", DEBERTA),
    "albert": ("Albert", {"embedding_size": 8}),
    "modernbert": ("ModernBert", {"cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2}),
}
NAMES = list(CONFIGS)


def config(family: str, **changes: Any) -> Any:
    kind, own = CONFIGS[family]
    common = {k: v for k, v in SMALL.items() if family != "distilbert" or k not in ("hidden_size", "intermediate_size")}
    if family == "distilbert":
        common = {k: v for k, v in common.items() if not k.startswith("num_")}
    return getattr(transformers, f"{kind}Config")(**{**common, **own, **changes})


def stock(family: str, **changes: Any) -> Any:
    """A random encoder without pooler, and without zeros that would hide a forgotten term."""
    kind, _ = CONFIGS[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = config(family, **changes)
        cls = getattr(transformers, f"{kind}Model")
        made._attn_implementation = "sdpa" if cls._supports_sdpa else "eager"
        model = cls(made)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return without_pooler(model)


def classifier(family: str, representation: Any = "cls", outputs: int = 3, **changes: Any) -> Classifier:
    model = Classifier(stock(family, **changes), outputs, representation)
    initialise_head(model.head, seed=0)
    model.center.normal_(generator=torch.Generator().manual_seed(1))
    model.spread.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    return model


def batch(lengths: tuple[int, ...] = (9, 3, 6, 9, 4), typed: bool = True, seed: int = 0) -> Batch:
    """Rows of the given lengths, padded to the longest; token 5 or the last is read where it is not the first."""
    generator = torch.Generator().manual_seed(seed)
    rows, longest = len(lengths), max(lengths, default=1)
    inside = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(4, VOCABULARY, (rows, longest), generator=generator)
    ids[:, :1] = FIRST
    ids[~inside] = PADDING
    types = (inside & (torch.arange(longest) > 2)).long() if typed else None
    read = torch.tensor([min(5, n - 1) for n in lengths])
    labels = torch.randint(0, 3, (rows,), generator=generator)
    return Batch(ids, None if bool(inside.all()) else inside, types, read, labels)


def replaced(of: Batch, **changes: Any) -> Batch:
    return dataclasses.replace(of, **changes)


def alone(of: Batch, row: int) -> Batch:
    """One row, without its padding."""
    length = of.ids.shape[1] if of.allowed is None else int(of.allowed[row].sum())
    one = of.rows(slice(row, row + 1))
    types = None if one.types is None else one.types[:, :length]
    labels = one.labels if one.labels.dim() == 1 else one.labels[:, :length]
    return Batch(one.ids[:, :length], None, types, one.read, labels)


def words(of: Batch, bare: int | None = None) -> Batch:
    """The same rows with a label for about half of their tokens: never the first, nor padding; row `bare` has none."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, of.ids.shape, generator=generator)
    judged = torch.rand(of.ids.shape, generator=generator) < 0.5
    judged[:, 1:2] = True
    judged[:, 0] = False
    if of.allowed is not None:
        judged &= of.allowed
    if bare is not None:
        judged[bare] = False
    return replaced(of, labels=torch.where(judged, labels, -100))
