"""Verbs for one run."""
