"""An adapted model and what it answers: built, measured, evaluated, loaded again."""
