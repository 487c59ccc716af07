"""This computer: files, memory, cards, network; nothing here knows what a note is."""
