"""Text from providers, tokens and programs, made safe for a terminal."""


def printable(text: str) -> str:
    r"""Return `text` with what would steer a terminal written out: an escape becomes \x1b."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
