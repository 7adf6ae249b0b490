"""Tokenisation: texts to token arrays, and micro-batches of them."""
