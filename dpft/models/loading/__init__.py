"""Loading of models and tokenizers: built in, from folders, from the hub. Safetensors only, no remote code."""

from dpft.models.loading.builtin_lm import BUILTIN_LM, BUILTIN_LM_NAME
from dpft.models.loading.load import check_length, identity, load, tokenizer
from dpft.models.loading.quiet import quiet
from dpft.models.loading.sources import BUILTIN, BUILTIN_NAME, configuration, locate
from dpft.models.loading.weights import check, digest

__all__ = [
    "BUILTIN", "BUILTIN_LM", "BUILTIN_LM_NAME", "BUILTIN_NAME", "check", "check_length", "configuration", "digest",
    "identity", "load", "locate", "quiet", "tokenizer",
]  # fmt: skip
