"""Comparisons: cells planned together, run one after the other, found again after a kill, shown beside each other."""
