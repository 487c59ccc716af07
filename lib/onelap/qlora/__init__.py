"""Training the adapter: 03_train."""
