"""What the user is told in one line."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the caller's: one line that gives the rule, what was found, and the remedy."""
