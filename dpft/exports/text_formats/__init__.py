"""One file per export format of models that write."""
