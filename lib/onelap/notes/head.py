"""Front matter: the properties above a note's text, and their values."""

import json
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from datetime import date

import regex
import yaml

from onelap.machine.names import BLANK, HIDDEN
from onelap.notes.fields import TAG_FIELDS
from onelap.notes.kinds import tags_between_blanks, words_of
from onelap.notes.rows import unwrapped

MAX_HEAD, MAX_BRACKETS = 10_000, 500  # characters; a longer or more deeply nested one may kill the parser
_YAML = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # every scalar is text: `no` is a word, as in YAML 1.2
_NULL = {"", "~", "null", "Null", "NULL", ".nan", ".NaN", ".NAN", "nan", "NaN", "<NA>"}  # of YAML 1.2, and of pandas
_HEAD = regex.compile(rf"(?ms)\A(?:{BLANK}|\n)*+(---|\+\+\+){BLANK}*+\n(.*?)^(?:\1|\.\.\.){BLANK}*+(?:\n|\Z)")
_BLOCK = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # a property begins at the margin, and lasts to the next one


def split_head(content: str) -> tuple[dict, str, bool]:
    """Split a note into (properties, text, sound): YAML between `---`, TOML between `+++`, or JSON between braces.

    A head that is not a mapping is text, because a note may begin with a horizontal line. `sound` is False for front
    matter of which only some properties could be read.
    """
    if content.startswith("{\n"):  # as Hugo writes it; an object on one line is text
        with suppress(ValueError, RecursionError):
            head, end = json.JSONDecoder().raw_decode(content[:MAX_HEAD])
            return (head, content[end:], True) if content[end:].startswith("\n") else ({}, content, True)
    match = _HEAD.match(content)
    if not match or len(match[2]) > MAX_HEAD or match[2].count("[") + match[2].count("{") > MAX_BRACKETS:
        return {}, content, True
    head, text = HIDDEN.sub("", regex.sub(r"[\p{Zs}\t]", " ", match[2])), content[match.end() :]
    try:
        values = tomllib.loads(head) if match[1] == "+++" else yaml.load(head, _YAML) or {}
        return (values, text, True) if isinstance(values, dict) else ({}, content, True)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # of TOML, too
        blocks = _sound_blocks(head)
        return (blocks, text, False) if blocks else ({}, content, True)


def _sound_blocks(head: str) -> dict:
    """The properties of broken front matter that can be read by themselves; the others are None."""
    properties = {}
    for block in _BLOCK.split(head):
        name, colon, _ = block.partition(":")
        value = {name.strip(): None} if colon and re.fullmatch(r"[\w -]+", name) else None
        with suppress(yaml.YAMLError, ValueError, TypeError, RecursionError):
            value = yaml.load(block, _YAML)
        properties |= value if isinstance(value, dict) else {}
    return properties


def texts_of(value: object) -> list[str]:
    """List the texts of a property's value: none for a blank, one for a list of lists of one."""
    value = unwrapped(value)
    if isinstance(value, list):  # a list of several in it is not looked into: aliases may make it endless
        members = map(unwrapped, value)
        return [text for member in members if not isinstance(member, list) for text in texts_of(member)]
    if isinstance(value, str | int | float | date):
        with suppress(ValueError):  # a number of thousands of digits
            text = unicodedata.normalize("NFC", HIDDEN.sub("", str(value)).encode("utf-8", "replace").decode())
            return [] if text.strip() in _NULL else [" ".join(text.split())]
    return []


def single(value: object) -> str:
    """Write a property's value on one line, links and tags as their words; empty for a blank or for several values."""
    texts = texts_of(value)
    return words_of(texts[0])[-1].removeprefix("#") if len(texts) == 1 else ""


def tags_in(head: dict, kinds: Sequence[str]) -> list[str]:
    """List the tags of front matter, between commas or blanks."""
    values = [text for name, value in head.items() if str(name).lower() in TAG_FIELDS for text in texts_of(value)]
    return [tag for value in values for part in value.split(",") for tag in tags_between_blanks(part.strip(), kinds)]
