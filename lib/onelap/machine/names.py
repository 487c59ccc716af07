"""Names of kinds, sources and styles, each written in one way."""

import unicodedata


def normalize(name: object) -> str:
    """Write a name in lower case, with white space folded and characters composed (macOS decomposes them)."""
    return " ".join(unicodedata.normalize("NFKC", str(name)).lower().split())
