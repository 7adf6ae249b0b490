"""A run on disk: its folder, result and privacy card, its charges to the ledger, and its recovery after a crash."""
