"""Formats of exports: each file is a format of its name, with `LIBRARY`, which loads it, and `write`."""
