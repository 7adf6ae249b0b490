"""The cells of a comparison at work: runs, searches, and Ray."""
