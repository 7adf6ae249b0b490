"""Texts, words, labels and batches as plain data: no reader, no model."""
