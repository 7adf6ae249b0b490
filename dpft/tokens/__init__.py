"""Texts as token arrays, and micro-batches of them."""
