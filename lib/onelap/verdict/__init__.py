"""What is measured of the arms, and what is said of them: 04_evaluate and 05_compare."""
