"""One pass through the notebooks, and its record."""
