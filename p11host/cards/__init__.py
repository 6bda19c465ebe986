"""Card readers and cards, as PC/SC tells of them: watched by a thread of the broker, told to whoever asks."""
