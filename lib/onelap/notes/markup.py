"""Front matter, tags and Obsidian's marks: what a note's file holds beside its text.

What gives the kind away is not text. A model that may read it learns how notes are filed, not what they say, and fails
on the raw notes that it was made for.
"""

import json
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import cache

import yaml

from onelap.machine.names import normalize

TAG_FIELDS = ("tags", "tag")
MAX_HEAD = 10_000  # characters of front matter; a longer or more deeply nested one may kill the parser
MAX_BRACKETS = 500
MAX_HEADING = 80  # characters of a line that may be a heading
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HEAD = re.compile(r"\A\s*(---|\+\+\+)[ \t]*\n(.*?)^(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# Not after a letter, a quote or a bracket: C#, web addresses, [a link](#below), HTML.
_TAG = re.compile(r"(?<![\w&/#\"'=\[])(?<!\]\()#(?=[\w/-]*[^\W\d])([\w/-]+)")
_FENCED = re.compile(r"(^[ \t]*(```|~~~).*?(?:^[ \t]*\2[^\n]*|\Z))", re.DOTALL | re.MULTILINE)
_CODE_SPAN = re.compile(r"((?<!`)(`+)(?!`)[^\n]*?(?<!`)\2(?!`))")
_EMBED = re.compile(r"!\[\[[^\[\]\n]*\]\]")
_WIKI_LINK = re.compile(r"\[\[([^\[\]|\n]+)(?:\|([^\[\]\n]*))?\]\]")
_CALLOUT = re.compile(r"^([ \t]*(?:>[ \t]*)+)\[![\w-]+\][+-]?[ \t]*", re.MULTILINE)
_BLOCK_ID = re.compile(r"(?:^|[ \t])\^(?=[\w-]*[a-z])[\w-]+[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"[\s>+-]*(?:#+[ \t]|\*\*|__|\[!|[【■●◆▼])")


def split_front_matter(content: str) -> tuple[dict, str, bool]:
    """Split a note into (properties, text, sound): YAML between `---`, TOML between `+++`, or a JSON object come first.

    A head that is not a mapping is text, because a note may begin with a horizontal line. `sound` is False for front
    matter of which only single lines could be read.
    """
    if content.startswith("{"):
        return _json_head(content)
    match = _HEAD.match(content)
    if not match or len(match[2]) > MAX_HEAD or match[2].count("[") + match[2].count("{") > MAX_BRACKETS:
        return {}, content, True
    text = content[match.end() :]
    try:
        head = tomllib.loads(match[2]) if match[1] == "+++" else yaml.load(match[2], _YAML)
        if head is None:
            return {}, text, True
        return (head, text, True) if isinstance(head, dict) else ({}, content, True)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, TypeError, RecursionError):
        lines = _sound_lines(match[2])  # a date of 30 February is a ValueError
        return (lines, text, False) if lines else ({}, content, True)


def _json_head(content: str) -> tuple[dict, str, bool]:
    try:
        head, end = json.JSONDecoder().raw_decode(content[:MAX_HEAD])
    except (ValueError, RecursionError):
        return {}, content, True
    return (head, content[end:], True) if content[end:].startswith("\n") else ({}, content, True)


def _sound_lines(head: str) -> dict:
    """The properties on those lines of broken front matter that can be read by themselves."""
    properties = {}
    for line in head.split("\n"):
        try:
            value = yaml.load(line, _YAML)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            name, colon, _ = line.partition(":")
            value = {name.strip(): None} if colon and re.fullmatch(r"[\w -]+", name) else None
        properties |= value if isinstance(value, dict) else {}
    return properties


def single(value: object) -> str | None:
    """Write a property's value on one line, links and tags as their words; empty for a blank, None for several values.

    A list of one counts as its member: YAML reads `[[Diary]]` as a list in a list.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | date):
        return None
    try:
        text = str(value).strip().encode("utf-8", "replace").decode()
    except ValueError:  # a number of thousands of digits
        return None
    words = re.sub(r"^#(?=\S)|^\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]$", r"\1", text)
    return " ".join(unicodedata.normalize("NFC", words).split())


def _folded(name: str) -> str:
    return normalize(name.replace("-", " ").replace("_", " "))


def named_after(name: str, names: Sequence[str], plural: bool = True) -> str:
    """Find the one of `names` that a folder or a tag is named after, in the singular or plural; empty for none."""
    name = _folded(name)
    return next((known for known in names if name == _folded(known) or (plural and name == _folded(known) + "s")), "")


def tags_of(head: dict, text: str) -> list[str]:
    """List the tags of the front matter and of the text, without `#`."""
    tags = []
    for field, values in head.items():
        if isinstance(field, str) and field.lower() in TAG_FIELDS:
            values = re.split(r"[,\s]+", values) if isinstance(values, str) else values
            tags += [single(value) or "" for value in values] if isinstance(values, list) else []
    prose = " ".join(_CODE_SPAN.sub(" ", block) for block in _FENCED.split(text)[::3])
    return [tag.strip().lstrip("#") for tag in tags if tag.strip()] + _TAG.findall(_WIKI_LINK.sub(" ", prose))


def kinds_of_tags(tags: list[str], kinds: Sequence[str]) -> set[str]:
    """Find the kinds that tags name: `lesson`, `lessons`, `kind/lesson`, `lesson/work`."""
    return {kind for tag in tags for part in tag.split("/") if (kind := named_after(part, kinds))}


def plain(text: str, kinds: tuple[str, ...], field: str) -> tuple[str, Counter]:
    """Return the text as its author wrote it, and how often something was removed that gives its kind away.

    Links become their words; embedded files, callout types and block ids are removed. Removed and counted are `tag`
    (`#lesson`), `heading` (a heading, or the first line, that is just a kind) and `property` (such as `kind:: lesson`).
    Code is left as it is.
    """
    removed = Counter()
    blocks = _FENCED.split(text)
    for index in range(0, len(blocks), 3):
        block = _without_headings(blocks[index], kinds, removed, first=index == 0)
        pieces = _CODE_SPAN.split(block)
        pieces[::3] = [_plain_prose(piece, kinds, field, removed) for piece in pieces[::3]]
        blocks[index] = _joined(pieces)
    return _joined(blocks).strip(), +removed


def _joined(split: list[str]) -> str:
    """Join what a pattern of two groups has split: text, code, the code's mark (which is in the code, too), text."""
    return "".join(part for index, part in enumerate(split) if index % 3 < 2)


def _plain_prose(text: str, kinds: tuple[str, ...], field: str, removed: Counter) -> str:
    text = _BLOCK_ID.sub("", _CALLOUT.sub(r"\1", _EMBED.sub("", text)))
    text, count = _property(kinds, field).subn("", _WIKI_LINK.sub(_words_of_link, text))
    removed["property"] += count

    def remove_revealing(tag: re.Match) -> str:
        revealing = bool(kinds_of_tags([tag[1]], kinds))
        removed["tag"] += revealing
        return "" if revealing else tag[0]

    return _TAG.sub(remove_revealing, text)


def _without_headings(text: str, kinds: tuple[str, ...], removed: Counter, first: bool) -> str:
    kept, opening = [], first
    for line in text.split("\n"):
        if len(line) <= MAX_HEADING and (opening or _HEADING.match(line)) and _names_a_kind(line, kinds):
            removed["heading"] += 1
        else:
            kept.append(line)
            opening = opening and not line.strip()
    return "\n".join(kept)


def _names_a_kind(line: str, kinds: tuple[str, ...]) -> bool:
    """Tell whether a line's words are just a kind, without its tags or with them, as in `# #lesson`."""
    words = re.sub(r"\[![\w-]+\]", " ", line)
    ways = [_TAG.sub(" ", words), words if line.lstrip("> ").startswith("# ") else ""]
    return any(named_after(" ".join(re.findall(r"\w+", way)), kinds) for way in ways)


def _words_of_link(link: re.Match) -> str:
    """The alias of a link, else the heading that it goes to, else the name of the note."""
    page, _, place = link[1].partition("#")
    return link[2] or (place if place and not place.startswith("^") else page.rstrip("/").rpartition("/")[2])


@cache
def _property(kinds: tuple[str, ...], field: str) -> re.Pattern:
    """Pattern of `kind: lesson` on a line of its own, in a list, quote or comment, or `[kind:: lesson]` anywhere."""
    names = "|".join(re.escape(kind).replace(r"\ ", r"[ _-]").replace(r"\-", r"[ _-]") for kind in kinds)
    name = rf"[*_]{{0,3}}(?:{re.escape(field)}|tags?)[*_]{{0,3}}::?[*_]{{0,3}}"
    pair = rf"{name}[ \t]{{0,4}}[#\"']?(?:\[\[)?(?:{names})s?(?:\]\])?[\"']?"
    return re.compile(rf"^[ \t>%+-]{{0,12}}{pair}[ \t%]{{0,6}}$|[\[(]{pair}[\])]", re.IGNORECASE | re.MULTILINE)
