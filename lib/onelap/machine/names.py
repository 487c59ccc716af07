"""Names of kinds, sources, files and fields, each written in one way."""

import unicodedata

import regex

# Marks of byte order and direction, spaces of no width; not the joiners, which emoji and Persian are written with.
HIDDEN_CHARACTERS = r"\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"
BLANK = rf"[\p{{Zs}}\t{HIDDEN_CHARACTERS}]"
HIDDEN = regex.compile(f"[{HIDDEN_CHARACTERS}]")


def normalize(name: object) -> str:
    """Write a name in lower case, with white space folded and characters composed (macOS decomposes them)."""
    return " ".join(unicodedata.normalize("NFKC", str(name)).lower().split())
