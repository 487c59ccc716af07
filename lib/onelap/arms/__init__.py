"""The contenders: 02_baseline and 04_evaluate."""
