"""Device, precision, peak memory, multi-process training, and an in-process memo. Nothing here changes privacy."""
