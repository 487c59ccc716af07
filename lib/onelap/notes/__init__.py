"""Reading and splitting notes: 01_data_prep."""
