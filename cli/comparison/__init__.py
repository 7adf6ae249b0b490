"""Verbs for many runs."""
