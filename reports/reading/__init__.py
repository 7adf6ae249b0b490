"""Run folders, read with care, and what is compared in them."""
