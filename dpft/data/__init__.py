"""Value types: examples, words, units, token arrays and batches. Readers are in `dpft.tasks`."""
