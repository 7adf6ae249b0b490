"""A run on the disk: its folder, result and privacy card, its charges, and how it is taken up again."""
