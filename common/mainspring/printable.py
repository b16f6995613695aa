"""Text that others wrote, for a terminal."""

import unicodedata


def printable(text: str, keep: str = "\n\t") -> str:
    """Return `text` without characters that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or unicodedata.category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for char in text
    )
