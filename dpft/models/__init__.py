"""Stock Hugging Face encoders with our modules inside."""

from dpft.models.loading import BUILTIN, BUILTIN_NAME, check, check_length, configuration, load, locate, tokenizer

__all__ = ["BUILTIN", "BUILTIN_NAME", "check", "check_length", "configuration", "load", "locate", "tokenizer"]
