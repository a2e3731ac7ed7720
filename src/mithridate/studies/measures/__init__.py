"""Measures: what is asked of one cell of a study, and the unit that answers."""
