"""Measurements of the arms and the verdict on them: 04_evaluate and 05_compare."""
