"""Writes the head, one linear layer on the first token, into each family's stock classification head.

Stock heads have a dense layer and a nonlinearity before the output layer. Two identities cancel them:
tanh(e r) / e = r (1 - O((e r)^2)) for a small e, and f(u) - f(-u) = u, exactly, where f is relu or gelu.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dpft.methods import CannotMerge

# Of e r, where tanh is off by a relative (e r)^2 / 3 = 1.3e-6 at most.
_SMALL = 2.0**-9


def of(auto_class: str) -> Callable[[Any, nn.Linear], None]:
    """The function that writes a head into a stock class of transformers. Raises CannotMerge where there is none."""
    ways = {"AutoModelForSequenceClassification": write_head, "AutoModelForTokenClassification": write_token_head}
    if auto_class not in ways:
        raise CannotMerge(f"a linear head has no place in a {auto_class}")
    return ways[auto_class]


def write_head(model: Any, head: nn.Linear) -> None:
    """Write `head` into a stock sequence classifier, so that it has the same outputs. Raises CannotMerge."""
    kind = model.config.model_type
    if kind not in HEADS:
        raise CannotMerge(f"the stock head of {kind} has a layer norm of its own, which a linear head cannot undo")
    with torch.no_grad():
        HEADS[kind](model, head)


def write_token_head(model: Any, head: nn.Linear) -> None:
    """Write `head` into a stock token classifier, which has one linear layer. Raises CannotMerge."""
    if hasattr(model, "head"):
        kind = model.config.model_type
        raise CannotMerge(f"the stock head of {kind} has a layer norm of its own, which a linear head cannot undo")
    with torch.no_grad():
        model.classifier.weight.copy_(head.weight)
        model.classifier.bias.copy_(head.bias)


def _bert(model: Any, head: nn.Linear) -> None:
    _through_tanh(model.bert.pooler.dense, model.classifier, head, model.bert.encoder.layer[-1].output.LayerNorm)


def _roberta(model: Any, head: nn.Linear) -> None:
    last = model.roberta.encoder.layer[-1].output.LayerNorm
    _through_tanh(model.classifier.dense, model.classifier.out_proj, head, last)


def _mpnet(model: Any, head: nn.Linear) -> None:
    last = model.mpnet.encoder.layer[-1].output.LayerNorm
    _through_tanh(model.classifier.dense, model.classifier.out_proj, head, last)


def _albert(model: Any, head: nn.Linear) -> None:
    last = model.albert.encoder.albert_layer_groups[-1].albert_layers[-1].full_layer_layer_norm
    _through_tanh(model.albert.pooler, model.classifier, head, last)


def _electra(model: Any, head: nn.Linear) -> None:
    _through_pairs(model.classifier.dense, model.classifier.out_proj, head)


def _distilbert(model: Any, head: nn.Linear) -> None:
    _through_pairs(model.pre_classifier, model.classifier, head)


def _deberta(model: Any, head: nn.Linear) -> None:
    if model.config.pooler_hidden_act == "tanh":
        last = model.deberta.encoder.layer[-1].output.LayerNorm
        _through_tanh(model.pooler.dense, model.classifier, head, last)
    else:
        _through_pairs(model.pooler.dense, model.classifier, head)


HEADS: dict[str, Callable[[Any, nn.Linear], None]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "mpnet": _mpnet,
    "albert": _albert,
    "electra": _electra,
    "distilbert": _distilbert,
    "deberta-v2": _deberta,
}


def _through_tanh(dense: nn.Linear, out: nn.Linear, head: nn.Linear, last: nn.LayerNorm) -> None:
    """out(tanh(dense(r))) = head(r): dense = e I, out = W / e, with e a power of two, so that scaling is exact."""
    small = 2.0 ** math.floor(math.log2(_SMALL / bound(last)))
    dense.weight.copy_(torch.eye(len(dense.weight)) * small)
    dense.bias.zero_()
    out.weight.copy_(head.weight / small)
    out.bias.copy_(head.bias)


def _through_pairs(dense: nn.Linear, out: nn.Linear, head: nn.Linear) -> None:
    """out(f(dense(r))) = head(r): dense = (W; -W; 0), out = (I, -I, 0), for f(u) - f(-u) = u."""
    count = len(head.weight)
    if 2 * count > len(dense.weight):
        raise CannotMerge(f"the stock head has room for {len(dense.weight) // 2} labels, got {count}")
    dense.weight.zero_()
    dense.bias.zero_()
    dense.weight[: 2 * count] = torch.cat([head.weight, -head.weight])
    dense.bias[: 2 * count] = torch.cat([head.bias, -head.bias])
    out.weight.zero_()
    out.weight[:, : 2 * count] = torch.cat([torch.eye(count), -torch.eye(count)], dim=1)
    out.bias.zero_()


def bound(norm: nn.LayerNorm) -> float:
    """Upper bound on the coordinates of a layer norm's output: a standardised coordinate is at most sqrt(D)."""
    most = (norm.weight.abs() * norm.weight.numel() ** 0.5 + norm.bias.abs()).detach()
    return max(float(most.max()), _SMALL)
