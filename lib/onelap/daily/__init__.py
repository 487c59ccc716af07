"""The winner at work: sorting, labelling, exporting."""
