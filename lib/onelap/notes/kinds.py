"""Names of kinds, as people write them in fields, tags, links, headings and folders: docs/READING.md has the rule."""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from urllib.parse import unquote

import regex

from onelap.machine.names import HIDDEN, normalize

MAX_NAME = 200  # characters; what is longer names nothing
EMOJI = r"\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\u200d\u20e3\ufe0e\ufe0f"  # and their parts
_MARKS = rf"{EMOJI}\p{{So}}\p{{Sk}}\s" r"\[\](){}<>【】「」『』■●◆▼*_~=\"'“”‘’`.。:：!！?？,、;·•|–—-"
_BEFORE = rf"^(?:[#{_MARKS}]|\d\ufe0f?\u20e3|\d+(?:\.\d+)*+[\s.)_–-]++(?!\d))+"
# `01 Lessons`, `📚 Knowledge`, `【Lesson】`, and the 32 hexadecimal digits of Notion.
_AROUND = regex.compile(rf"{_BEFORE}|(?:[{_MARKS}]|\s#+|\s[0-9a-f]{{32}})+$")
LINK = r"#?\[\[([^\[\]|#\n]*)(?:#[^\[\]|\n]*)?(?:\|([^\[\]\n]*))?\]\]|\[([^\[\]\n]*)\]\(<?([^()\n]*?)>?\)"


def named_after(name: str, names: Sequence[str]) -> str:
    """Find the one of `names` that a folder, a heading or a tag is named after; empty for none."""
    known = _spellings(tuple(names)) if len(name) < MAX_NAME else {}
    return known.get(_folded(name)) or known.get(_core(name), "")


def kind_in(value: str, kinds: Sequence[str]) -> str:
    """Find the kind that a value names: `lesson`, `kind/Lessons`, `#lesson/work`, `[[Kinds/Lesson#x|shown]]`."""
    for path in words_of(value[:MAX_NAME]):
        path = path.strip("\"' ").removeprefix("#")
        is_words = " " in path.partition("/")[0] and not value.lstrip("#").startswith("[[")  # `a bed, work/lesson`
        parts = [path] if is_words else path.split("/")
        stretches = (parts[start:end] for start in range(len(parts)) for end in range(len(parts), start, -1))
        if kind := next(filter(None, (named_after("/".join(stretch), kinds) for stretch in stretches)), ""):
            return kind
    return ""


def kinds_in(values: Iterable[str], kinds: Sequence[str]) -> list[str]:
    """List the kinds that values name, each once, sorted."""
    return sorted({kind for value in values if (kind := kind_in(value, kinds))})


def tags_between_blanks(value: str, kinds: Sequence[str]) -> list[str]:
    """Split tags that stand between blanks; a link, or a kind of several words, is one tag."""
    return [value] if value.startswith(("[", "#[")) or named_after(value, kinds) else value.split()


def words_of(value: str) -> list[str]:
    """Return the words of a value: a link's page or target, and last the words that are shown."""
    if not (link := regex.fullmatch(LINK, value.strip())):
        return [value]
    page, alias, text, target = (unquote(part or "") for part in link.groups())
    return [words for words in (page.rstrip("\\"), alias, target.removesuffix(".md"), text) if words] or [value]


@cache
def _spellings(names: tuple[str, ...]) -> dict[str, str]:
    """{spelling: name}; of two names with one spelling the nearer one has it, then the first."""
    known = {}
    for spelling in (_folded, _core, lambda name: _core(name) + "s", lambda name: _core(name) + "es"):
        known = {spelling(name): name for name in reversed(names)} | known
    return known


@lru_cache(10_000)
def _folded(name: str) -> str:
    return regex.sub(r"[ _\ufe0e\ufe0f-]+", "", HIDDEN.sub("", normalize(name)))


@lru_cache(10_000)
def _core(name: str) -> str:
    """A name without what stands around it; all of a name that consists of nothing else."""
    name = HIDDEN.sub("", normalize(name))
    return _folded(_AROUND.sub("", name) or name)
