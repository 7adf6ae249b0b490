"""Running the cells of a comparison: single runs, random searches, executors."""
