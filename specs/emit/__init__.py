"""The C that the tables stand for: one module for each side of it, one function for each file."""
