"""Commands for planning a run and its budget."""
