"""Level two of an audit: attacks and statistical tests on the training mechanism as it is shipped."""
