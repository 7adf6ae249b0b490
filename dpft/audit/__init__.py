"""The audit of a run: its books, the path it was trained on, and the model that came out."""
