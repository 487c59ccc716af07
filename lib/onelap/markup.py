"""What a note's file says beside its text: front matter, tags, Obsidian's marks.

What gives the kind away is not text: a model that may read it learns the filing, not the
note, and fails on the raw notes that it was made for.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

import frontmatter
import yaml
from frontmatter.default_handlers import YAMLHandler

TAG_FIELDS = ("tags", "tag")
_TAG = re.compile(r"(?<![\w&/#])#([^\W\d][\w/-]*)")
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_EMBED = re.compile(r"!\[\[[^\[\]\n]*\]\]")
_WIKI_LINK = re.compile(r"\[\[([^\[\]|\n]+)(?:\|([^\[\]\n]*))?\]\]")
_CALLOUT = re.compile(r"^([ \t]*(?:>[ \t]*)+)\[![\w-]+\][+-]?[ \t]*", re.MULTILINE)
_BLOCK_ID = re.compile(r"[ \t]\^[\w-]+[ \t]*$", re.MULTILINE)


def split_front_matter(content: str) -> tuple[dict, str, bool]:
    """(properties, text, sound): `sound` is False for front matter that is no YAML mapping."""
    try:
        head, text = frontmatter.parse(content, handler=YAMLHandler())
        return head, text, True
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # a date of 30 February is a ValueError
        _, _, rest = content.partition("---")
        return {}, rest.partition("\n---")[2].lstrip("-"), False


def normalize(name: object) -> str:
    """A kind's name in lower case, white space folded."""
    return " ".join(str(name).lower().split())


def named_after(name: str, names: Sequence[str]) -> str:
    """Which of `names` a folder or a tag is named after, in the singular or the plural; empty for none."""
    name = normalize(name.replace("-", " ").replace("_", " "))
    return next((known for known in names if name in (known, known + "s")), "")


def tags_of(head: dict, text: str) -> list[str]:
    """Tags of the front matter and of the text, without `#`."""
    tags = []
    for field in TAG_FIELDS:
        values = head.get(field) or []
        tags += re.split(r"[,\s]+", values) if isinstance(values, str) else [str(value) for value in _listed(values)]
    prose = "".join(_CODE.split(text)[::2])
    return [tag.strip().lstrip("#") for tag in tags if tag.strip()] + _TAG.findall(prose)


def _listed(values: object) -> list:
    return list(values) if isinstance(values, list | tuple | set) else [values]


def kinds_of_tags(tags: list[str], kinds: Sequence[str]) -> set[str]:
    """The kinds that tags name: `lesson`, `lessons`, `kind/lesson`."""
    return {kind for tag in tags if (kind := named_after(tag.rpartition("/")[2], kinds))}


def plain(text: str, kinds: tuple[str, ...], field: str) -> tuple[str, Counter]:
    """The text as its author wrote it, and how often something was removed that gives its kind away.

    Links become their words, embedded files, callout types and block ids go. Removed and
    counted: `tag` (`#lesson`), `heading` (a line that is just a kind), `property` (a line such as
    `kind:: lesson`). Code is left as it is.
    """
    removed = Counter()
    parts = _CODE.split(text)
    for index in range(0, len(parts), 2):
        part = _BLOCK_ID.sub("", _CALLOUT.sub(r"\1", _EMBED.sub("", parts[index])))
        part = _WIKI_LINK.sub(lambda link: link[2] or re.split(r"[/#]", link[1].rstrip("/#"))[-1], part)
        for what, pattern in _revealing(kinds, field).items():
            part, count = pattern.subn("", part)
            removed[what] += count
        parts[index] = part
    return "".join(parts).strip(), +removed


@cache
def _revealing(kinds: tuple[str, ...], field: str) -> dict[str, re.Pattern]:
    """Patterns of what names a kind, by what it is."""
    names = "|".join(re.escape(kind).replace(r"\ ", r"[ _-]") for kind in kinds)
    return {
        "tag": re.compile(rf"(?<![\w&/#])#(?:[\w-]+/)*(?:{names})s?(?![\w/-])", re.IGNORECASE),
        "heading": re.compile(rf"^[ \t]*#{{0,6}}[ \t]*[*_]*(?:{names})s?[*_]*:?[*_]*[ \t]*#*$", re.I | re.M),
        "property": re.compile(rf"^[ \t]*[*_]*{re.escape(field)}[*_]*::?[*_]*[ \t]*(?:{names})s?[ \t]*$", re.I | re.M),
    }
