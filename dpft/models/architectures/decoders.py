"""Decoders, which write text: one row each. Paths are those of the base model, without the language-model head."""

from __future__ import annotations

from dpft.models.architectures.row import Architecture, Dense

Biases = tuple[tuple[str, tuple[Dense, ...]], ...]
_ATTENTION: Biases = (("attention_bias", ("query", "key", "value", "attention")),)
_BOTH: Biases = (*_ATTENTION, ("mlp_bias", ("gate", "intermediate", "output")))


def _llama_like(biases: Biases = ()) -> Architecture:
    return Architecture(
        blocks="layers.*",
        words="embed_tokens",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention="self_attn.o_proj",
        gate="mlp.gate_proj",
        intermediate="mlp.up_proj",
        output="mlp.down_proj",
        decoder=True,
        biases=biases,
    )


DECODERS: dict[str, Architecture] = {
    # Its dense layers are Conv1D, weights transposed; they are nn.Linear while a method is inside (`adaptable`).
    "gpt2": Architecture(
        blocks="h.*",
        words="wte",
        positions="wpe",
        query="attn.c_attn",
        key="attn.c_attn",
        value="attn.c_attn",
        attention="attn.c_proj",
        intermediate="mlp.c_fc",
        output="mlp.c_proj",
        counted=True,
        decoder=True,
    ),
    "gpt_neox": Architecture(
        blocks="layers.*",
        words="embed_in",
        query="attention.query_key_value",
        key="attention.query_key_value",
        value="attention.query_key_value",
        attention="attention.dense",
        intermediate="mlp.dense_h_to_4h",
        output="mlp.dense_4h_to_h",
        decoder=True,
        biases=_ATTENTION,
    ),
    # Its position table has two rows before position 0, which `max_position_embeddings` does not count. Its blocks
    # flatten all tokens of all rows on their way; `adaptable` undoes that.
    "opt": Architecture(
        blocks="decoder.layers.*",
        words="decoder.embed_tokens",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention="self_attn.out_proj",
        intermediate="fc1.stock",
        output="fc2.stock",
        decoder=True,
    ),
    "llama": _llama_like(_BOTH),
    "mistral": _llama_like(),
    "qwen2": _llama_like(),
    "qwen3": _llama_like(_ATTENTION),
    "gemma2": _llama_like(_ATTENTION),
    "gemma3_text": _llama_like(_ATTENTION),
    "phi3": Architecture(
        blocks="layers.*",
        words="embed_tokens",
        query="self_attn.qkv_proj",
        key="self_attn.qkv_proj",
        value="self_attn.qkv_proj",
        attention="self_attn.o_proj",
        gate="mlp.gate_up_proj",
        intermediate="mlp.gate_up_proj",
        output="mlp.down_proj",
        decoder=True,
    ),
    "olmo2": _llama_like(_ATTENTION),
    "smollm3": _llama_like(_BOTH),
}
