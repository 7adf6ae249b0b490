"""Verbs for before a run, and for its budget."""
