"""What ranks write: where it goes (rank's end) and how it is followed (owner's end)."""
