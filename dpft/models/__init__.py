"""Stock Hugging Face encoders, and the trainable modules that methods insert."""

from dpft.models.loading import BUILTIN, BUILTIN_NAME, check, check_length, configuration, load, locate, tokenizer

__all__ = ["BUILTIN", "BUILTIN_NAME", "check", "check_length", "configuration", "load", "locate", "tokenizer"]
