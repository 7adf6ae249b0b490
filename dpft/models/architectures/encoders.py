"""Encoders, which read text: one row each."""

from __future__ import annotations

from dpft.models.architectures.row import Architecture, OneToken

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


ENCODERS: dict[str, Architecture] = {
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
