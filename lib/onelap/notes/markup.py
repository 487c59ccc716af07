"""The text of a note: what names its kind, what no person has written, and what remains.

What gives the kind away is not text. A model that may read it learns how notes are filed, not what they say, and fails
on the raw notes that it was made for. docs/READING.md has the rule.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import regex
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, backtick

from onelap.machine.names import BLANK, HIDDEN_CHARACTERS
from onelap.notes.fields import TAG_FIELDS, Fields
from onelap.notes.kinds import EMOJI, LINK, kind_in, named_after, tags_between_blanks

GIVE_AWAY = {"tag", "property", "heading"}
_MARKDOWN = MarkdownIt("commonmark").disable(["inline", "reference", "html_block"])
_QUERY = regex.compile(
    r"\{\{(?:[^{}\n]++|\{[^{}\n]*+\})*+\}\}"
    r"|(?ims:^[ \t>*-]*#\+begin_(query|src|example|export)\b.*?(?:^[ \t>]*#\+end_\1|\Z))"
)
# What programs write into a note: Excalidraw's drawing, Kanban's settings, Joplin's record, an exporter's last line.
_PROGRAMS = {
    "drawing": r"^(?:%%[ \t]*\n)?#+ Drawing[ \t]*\n+```(?:compressed-)?json\n.*?^```[ \t]*(?:\n%%)?"
    r"|^==⚠[^\n]*EXCALIDRAW[^\n]*==[^\n]*$|^#+ (?:Excalidraw Data|Text Elements|Embedded Files|Element Links)$"
    r"|^[0-9a-f]{40}: [^\n]+$",
    "board": r"^%%[ \t]*kanban:settings.*?^%%",
    "footer": r"(?:(?:\n[ \t]*+(?:[-*_—]{2,}+[ \t]*+)?){1,4}\n[*_> ]{0,4}(?:sent (?:from my|via|with)|gesendet von|"
    r"envoyé de(?:puis)? mon|enviado desde mi|inviato da|verzonden vanaf|(?:exported|created|generated|converted|"
    r"clipped)(?: on [\d/. :-]+)? (?:from|with|by|using|via))\b[^\n,;:!?]{1,60}|(?:\n[ \t]*+){1,4}"
    r"(?:iPhoneから送信|get outlook for \w+)|^id: [0-9a-f]{32}\n(?:^[a-z_]+:[^\n]*+\n){0,40}?type_: \d+)\s*\Z",
}

_HIDDEN = rf"[{HIDDEN_CHARACTERS}]{{0,4}}"
_ABOVE = regex.compile(rf"\A(?:{BLANK}*+\n)*+[{HIDDEN_CHARACTERS}]*+")
_EDGES = "".join(regex.findall(rf"{BLANK}|\s", "".join(map(chr, range(0x10000)))))
_FREE = r"(?<![\p{L}\p{M}\p{N}_&/#\"'=\[\\<])(?<!\]\()"  # not as in C#, web addresses, [a link](#below), HTML
_TAG = rf"{_HIDDEN}{_FREE}#(?:\[\[(?P<topic>[^\[\]\n]+)\]\]|(?:KINDS[\p{{L}}\p{{M}}\p{{N}}{EMOJI}_/-])++){_HIDDEN}"
_DATA = r"(?:<data:[^<>]*>|data:[^()<>]*(?:\([^()]*\)[^()]*)*+)"
_INLINE = (
    rf"(?P<picture>!?\[(?:[^\[\]\n]++|\[[^\[\]\n]*+\])*+\]\(\s*{_DATA}[^()\n]*\)"
    r"|(?P<stays>^[ \t>]*+)\[[^\[\]\n]+\]:[ \t]*<?data:[^\n]*$"
    r"|<img\b[^<>]*?\bsrc\s*=\s*(?:\"data:[^\"]*\"|'data:[^']*'|data:[^\s>]*)[^<>]*>"
    r"|data:[\w.+-]+/[\w.+-]+(?:;[\w=-]+)*;base64,[A-Za-z0-9+/=]{40,}+)"
    rf"|(?P<tag>{_TAG})"
    r"|!\[\[[^\[\]\n]*\]\]|!\[[^\[\]\n]*\]\[[^\[\]\n]*\]"  # embedded files
    r"|\[\[(?P<page>[^\[\]|\n]+)(?:\|(?P<alias>[^\[\]\n]*))?\]\]"
    r"|(?P<stays>^[ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)*+(?:>[ \t]*+)++)\[![^\[\]\n]+\][+-]?[ \t]*"
    r"|(?:^|[ \t])\^(?=[\w-]*[a-z])[\w-]+[ \t]*$"  # the id of a block
)
_NAME = r"[*_]{0,3}+(?:(?P<own>FIELD|tags?)|\p{L}[\p{L}\p{M}\p{N} _-]{0,30}?)[*_]{0,3}+"
_COLON = rf"{BLANK}{{0,4}}(?P<colon>::?|：)[*_]{{0,3}}+{BLANK}{{0,4}}"
_ITEM = rf"(?P<item>{LINK}|{_TAG}|(?![\s#])(?:(?!\s[#^]|%%|-->)[^,;、，|\n\[\]NEITHER]){{1,200}}+)"
_VALUES = rf"{_ITEM}(?:{BLANK}*[,;、，|]{BLANK}*{_ITEM}|{BLANK}+(?=[#\[]){_ITEM})*+"  # links and tags need no comma
_BEFORE = r"[ \t>%+*|-]{0,12}(?:\d{1,3}[.)][ \t])?(?:\[.\][ \t])?"  # quotes, lists, tasks, comments, tables
_UNDERLINE = r"\n[ \t>]*(?:=+|--+)[ \t]*$"
_SIGN = rf"{_BEFORE}(?:\#+{BLANK}|\*\*|__|\[!|\[\[|[【『■●◆▼])"
_HEADING = rf"(?:(?<![^\n]\n)^(?P<line>[^\n]{{1,80}}){_UNDERLINE}|(?:\A|^(?={_SIGN}))(?P<line>[^\n]{{1,80}})$)\n?"


class Cut(NamedTuple):
    """A stretch of a text, the words in its place, and what it is: `GIVE_AWAY` goes only where the kind is known."""

    start: int
    end: int
    words: str = ""
    what: str = ""  # counted, unless empty


class Body:
    """A note's text below its head; `field` and `tags` hold the kinds that its properties and its tags name."""

    def __init__(self, text: str, fields: Fields):
        self.kinds, self.field, self.tags, self.programs = fields.kinds, set(), set(), Counter()
        for what, pattern in _PROGRAMS.items():
            text, self.programs[what] = regex.subn(pattern, "", text, flags=regex.M | regex.S | regex.I)
        self.raw = text = _ABOVE.sub("", text)
        *patterns, self._tag = _patterns(fields)
        masked, cuts = _without_code(text), []
        for pattern, read in zip(patterns, (self._property, self._heading, self._inline), strict=True):
            cuts += (cut for match in pattern.finditer(masked) for cut in read(match))
        self.cuts = sorted(cuts, key=lambda cut: (cut.start, -cut.end))

    def text(self, kind: str) -> tuple[str, Counter]:
        """Return the text that is learnt from and sorted, and how often something was taken out, by what it was."""
        pieces, removed, position = [], self.programs.copy(), 0
        for cut in self.cuts:
            if cut.start >= position and (kind or cut.what not in GIVE_AWAY):
                pieces += self.raw[position : cut.start], cut.words
                position = cut.end
                removed[cut.what] += bool(cut.what)
        return "".join([*pieces, self.raw[position:]]).strip(_EDGES), +removed

    def _inline(self, match: regex.Match) -> list[Cut]:
        if match["page"]:
            page, _, place = match["page"].partition("#")
            named = place if place and not place.startswith("^") else page.rstrip("/").rpartition("/")[2]
            return [Cut(*match.span(), match["alias"] or named)]
        if not match["tag"]:
            return [Cut(*match.span(), match["stays"] or "", "picture" if match["picture"] else "")]
        if kind := kind_in(match["tag"], self.kinds):
            self.tags.add(kind)
            return [Cut(*match.span(), what="tag")]
        return [Cut(*match.span(), f"#{match['topic']}")] if match["topic"] else []

    def _heading(self, match: regex.Match) -> list[Cut]:
        words = re.sub(r"\[![^\[\]]+\][+-]?|\s\^[\w-]+\s*$", " ", match["line"])
        ways = [self._tag.sub(" ", words), words if words.lstrip("> ").startswith("# ") else ""]  # `# #lesson`
        link = regex.fullmatch(LINK, words.strip("#>*+- \t"))
        names_kind = any(named_after(way, self.kinds) for way in ways) or (link and kind_in(link[0], self.kinds))
        return [Cut(*match.span(), what="heading")] if names_kind else []

    def _property(self, match: regex.Match) -> list[Cut]:
        """Cut the kinds among a property's values; all of a property that holds nothing else."""
        spans, own = match.spans("item"), (match["own"] or "").lower()
        if own in TAG_FIELDS and len(spans) == 1 and tags_between_blanks(match["item"], self.kinds) != [match["item"]]:
            spans = [word.span() for word in regex.compile(r"\S+").finditer(match.string, *spans[0])]
        values = [match.string[start:end] for start, end in spans]
        if not own and match["colon"] != "::" and not all(value.startswith(("[", "#[")) for value in values):
            return []  # such as `Left: none`
        kinds = [kind_in(value, self.kinds) for value in values]
        if own:
            (self.tags if own in TAG_FIELDS else self.field).update(filter(None, kinds))
        if all(kinds):
            return [Cut(*match.span(), what="property")]
        last = max(index for index, kind in enumerate(kinds) if not kind)
        cut_before = [(spans[index][0], spans[index + 1][0]) for index in range(last) if kinds[index]]
        cut_after = [(spans[last][1], spans[-1][1])] if kinds[last + 1 :] else []
        return [Cut(start, end, what="property") for start, end in cut_before + cut_after]


@cache
def _patterns(fields: Fields) -> tuple[regex.Pattern, ...]:
    """Patterns of properties, headings, what stands in a line, and tags."""
    spelled = [r"[ _-]?".join(map(regex.escape, kind.split())) for kind in sorted(fields.kinds, key=len, reverse=True)]
    punctuated = [kind for kind in spelled if regex.search(rf"[^\p{{L}}\p{{M}}\p{{N}}{EMOJI}\s_/-]", kind)]
    kinds, name = "".join(f"{kind}|" for kind in punctuated), _NAME.replace("FIELD", regex.escape(fields.kind))
    start = rf"^{_BEFORE}(?:<!--)?{BLANK}{{0,4}}{name}"
    end = rf"(?:{BLANK}|[%,;、，]){{0,6}}(?:-->|\^[\w-]+)?(?:\|{BLANK}*)?$(?:\n(?=[^\n]*\|)[-:|> \t]*-[-:| \t]*$)?\n?"
    line = rf"{start}(?:{_COLON}|{BLANK}{{0,40}}\|{BLANK}{{0,40}}){_VALUES.replace('NEITHER', '')}{end}"
    patterns = rf"[\[(]{name}{_COLON}{_VALUES.replace('NEITHER', '()')}[\])]|{line}", _HEADING, _INLINE, _TAG
    return tuple(regex.compile(pattern.replace("KINDS", kinds), regex.I | regex.M) for pattern in patterns)


def _without_code(text: str) -> str:
    """The text with NUL in the place of every character of code, so that positions stay the same."""
    starts = [0, *(match.end() for match in re.finditer(r"\n|\Z", text))]
    code = [match.span() for match in _QUERY.finditer(text)]
    may_have_code = any(sign in text for sign in ("`", "~~~", "    ", "\t"))
    for token in _MARKDOWN.parse(text) if may_have_code else []:
        start, end = (starts[line] for line in token.map or (0, 0))
        if token.type in ("fence", "code_block"):
            code.append((start, end))
        elif token.type == "inline":
            code += [(start + first, start + last) for first, last in _code_spans(text[start:end])]
    masked = list(text)
    for start, end in code:
        masked[start:end] = re.sub(r"[^\n]", "\x00", text[start:end])
    return "".join(masked)


def _code_spans(text: str) -> Iterator[tuple[int, int]]:
    """The spans of inline code in a paragraph, by the rule of the library, which gives no positions itself."""
    state, start = StateInline(text, _MARKDOWN, {}, []), text.find("`")
    while start >= 0:
        state.pos, escaped = start, text[start - 1 : start] == "\\"
        backtick(state, silent=True)
        if not escaped and text[start : state.pos].strip("`"):
            yield start, state.pos
        start = text.find("`", start + 1 if escaped else state.pos)
