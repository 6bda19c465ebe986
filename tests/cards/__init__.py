"""Smart cards in software, and the reader they are in."""
