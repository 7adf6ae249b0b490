"""Stock Hugging Face models, and the trainable modules that methods insert."""

from dpft.models.loading import (
    BUILTIN,
    BUILTIN_LM,
    BUILTIN_LM_NAME,
    BUILTIN_NAME,
    check,
    check_length,
    configuration,
    load,
    locate,
    tokenizer,
)

__all__ = [
    "BUILTIN", "BUILTIN_LM", "BUILTIN_LM_NAME", "BUILTIN_NAME", "check", "check_length", "configuration", "load",
    "locate", "tokenizer",
]  # fmt: skip
