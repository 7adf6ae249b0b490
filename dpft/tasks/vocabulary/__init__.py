"""The words and sentences of the built-in tasks, all written for this project."""
