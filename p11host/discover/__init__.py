"""Finding the providers that are installed, and asking each who made it."""
