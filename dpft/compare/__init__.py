"""Comparisons: many runs planned and charged together, resumable, with one table of results."""
