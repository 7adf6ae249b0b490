"""Reading of run folders, and grouping of comparable runs."""
