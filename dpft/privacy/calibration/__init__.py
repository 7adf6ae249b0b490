"""The noise that a budget needs."""
