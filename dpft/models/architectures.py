"""Supported architectures: the dotted paths of modules inside each stock model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from torch import nn

from dpft.errors import UserError

Position = Literal["output", "attention", "intermediate"]
Dense = Literal["query", "key", "value", "attention", "intermediate", "output"]
POOLER = ("pooler", "pooler_activation")
DENSE: tuple[Dense, ...] = get_args(Dense)


@dataclass(frozen=True)
class OneToken:
    """Paths inside a block that can run for one query: self-attention, and the modules that take (new, residual)."""

    attention: str
    mixed: str
    widened: str
    final: str


@dataclass(frozen=True)
class Architecture:
    """Module paths of an architecture: `blocks` and `words` in the model, the dense layers in one block.

    A star in `blocks` stands for every number. The residual is added to the outputs of the dense layers `attention`
    and `output`. `one`: set where a block can run for one query. `shared`: blocks run several times. `tables`: dense
    layers that also read a position table, with one row for all examples. `counted`: position ids are made once for all
    examples unless passed. `common`: other parameters act once for all examples, such as distance tables.
    """

    blocks: str
    words: str
    query: str
    key: str
    value: str
    attention: str
    intermediate: str
    output: str
    positions: str = ""
    one: OneToken | None = None
    shared: bool = False
    tables: frozenset[Dense] = frozenset()
    counted: bool = False
    common: bool = False

    def dense(self, name: Dense) -> str:
        """Path of a dense layer inside a block."""
        return cast(str, getattr(self, name))


_WORDS, _POSITIONS = "embeddings.word_embeddings", "embeddings.position_embeddings"


def _bert_like(counted: bool) -> Architecture:
    return Architecture(
        blocks="encoder.layer.*",
        words=_WORDS,
        positions=_POSITIONS,
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention="attention.output.dense",
        intermediate="intermediate.dense",
        output="output.dense",
        one=OneToken("attention.self", "attention.output", "intermediate", "output"),
        counted=counted,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "bert": _bert_like(counted=True),
    "roberta": _bert_like(counted=False),
    "xlm-roberta": _bert_like(counted=False),
    "electra": _bert_like(counted=True),
    "distilbert": Architecture(
        blocks="transformer.layer.*",
        words=_WORDS,
        positions=_POSITIONS,
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention="attention.out_lin",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        counted=True,
    ),
    "mpnet": Architecture(
        blocks="encoder.layer.*",
        words=_WORDS,
        positions=_POSITIONS,
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention="attention.attn.o",
        intermediate="intermediate.dense",
        output="output.dense",
        common=True,
    ),
    "deberta-v2": Architecture(
        blocks="encoder.layer.*",
        words=_WORDS,
        positions=_POSITIONS,
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        attention="attention.output.dense",
        intermediate="intermediate.dense",
        output="output.dense",
        tables=frozenset({"query", "key"}),
        common=True,
        counted=True,
    ),
    "albert": Architecture(
        blocks="encoder.albert_layer_groups.*.albert_layers.*",
        words=_WORDS,
        positions=_POSITIONS,
        query="attention.query",
        key="attention.key",
        value="attention.value",
        attention="attention.dense",
        intermediate="ffn",
        output="ffn_output",
        shared=True,
        counted=True,
    ),
    "modernbert": Architecture(
        blocks="layers.*",
        words="embeddings.tok_embeddings",
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        attention="attn.Wo",
        intermediate="mlp.Wi",
        output="mlp.Wo",
    ),
}


def architecture(config: Any) -> Architecture:
    """The architecture of a Hugging Face config, by `model_type`. Raises UserError for an unsupported one."""
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        raise UserError(
            f"the model must be one of {', '.join(ARCHITECTURES)}, got {kind!r}; pass --model with such a checkpoint"
        )
    return ARCHITECTURES[kind]


def block_modules(backbone: nn.Module) -> list[nn.Module]:
    """The modules called as blocks, first to last; a block that runs several times appears once."""
    return [backbone.get_submodule(path) for path in block_paths(backbone)]


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The stock transformer blocks, first to last, without wrappers."""
    return [cast(nn.Module, getattr(block, "block", block)) for block in block_modules(backbone)]


def block_paths(backbone: nn.Module) -> list[str]:
    """The paths of the blocks inside the model."""
    paths = [""]
    for part in architecture(backbone.config).blocks.split("."):
        if part == "*":
            paths = [f"{path}.{n}" for path in paths for n, _ in backbone.get_submodule(path).named_children()]
        else:
            paths = [f"{path}.{part}" if path else part for path in paths]
    return paths


def dense_layers(backbone: nn.Module, names: tuple[Dense, ...]) -> list[tuple[nn.Module, str]]:
    """(block, path inside it) of the named dense layers, each once: some architectures fuse query, key and value."""
    row = architecture(backbone.config)
    paths = dict.fromkeys(row.dense(name) for name in names)
    return [(block, path) for block in blocks(backbone) for path in paths]


def longest(backbone: nn.Module) -> int:
    """The maximum number of tokens: RoBERTa counts positions from padding_idx + 1 (fairseq), BERT from 0."""
    config: Any = backbone.config
    parent, _, name = architecture(config).positions.rpartition(".")
    table = getattr(backbone.get_submodule(parent), name, None) if name else None
    padding = getattr(table, "padding_idx", None)
    return int(config.max_position_embeddings) - (0 if padding is None else int(padding) + 1)


def without_pooler(backbone: nn.Module) -> nn.Module:
    """Remove the pooler: the head reads the encoder's own output."""
    for name in POOLER:
        if getattr(backbone, name, None) is not None:
            setattr(backbone, name, None)
    return backbone


def replace(root: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module at `path` below `root` by `new`."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)
