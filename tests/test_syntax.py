"""Notes with a known kind in every syntax: it is found, all of it is taken out, and nothing else is changed.

In the pieces below `@K` is a kind as a name, `@J` the same in quotes, `@T` as a tag, and `@V` as a value. What stands
between ⟦ and ⟧ is taken out where the note has a kind; what stands between ⟪ and ⟫ always.
"""

import json
import re
import tempfile
from pathlib import Path
from unicodedata import normalize

from hypothesis import given, settings
from hypothesis import strategies as some

from onelap.machine import names
from onelap.notes.fields import Fields
from onelap.notes.read import Note, notes_in

KINDS = [
    "lesson", "Q&A", "C++", "work/lesson", "💡 idea", "design decision", "decision", "décision", "new", "news",
    "to-do", ".NET", "学び", "교훈", "निर्णय", "บทเรียน", "درس‌ها", "לקח", "none",
]  # fmt: skip
FIELDS = Fields(tuple(map(names.normalize, KINDS)))
NO_FOLDERS = {"work/lesson", ".NET"}
PLURAL = {"lesson", "décision", "design decision"}
UNSEEN = ["", "", "", "\u200b", "\ufeff", "\u2060\u200e"]
VALUES = [
    "@K", "@K", "@J", "#@T", "⟪[[⟫@K⟪]]⟫", "⟪[[Kinds/⟫@K⟪]]⟫", "⟪[[Kinds/@K#x|⟫shown⟪]]⟫", "⟪[[a|⟫@K⟪]]⟫",
    "[@K](x.md)", "[shown](<a/@K.md>)",
]  # fmt: skip

HEADS = [
    *[f"---\n{head}\n---\n" for head in [
        "kind: @K", "Kind: '@K'", "kind: @J", "kind: [@J]", "kind:\n  - @J", "kind: @K # by hand", "kind: >-\n  @K",
        "kind:\u00a0@K", "date: 2024-02-30\nkind: @J\nsource: [a, b]", "title: Re: frost\nkind: @K\nowner: @home",
        "kind: '[[Kinds/@K|shown]]'", "kind: '[@K](kinds/@K.md)'",
    ]],
    "\u200b---\u00a0\nkind: @K\n---\ufeff\n", "\n \n---\nkind: @K\n...\n", "+++\nkind = @J\n+++\n",
    '{\n"kind": @J\n}\n',
]  # fmt: skip
TAG_HEADS = [f"---\n{head}\n---\n" for head in [
    "tags: [garden, @T]", "tags:\n  - garden\n  - '#@T'", "Tags: garden @T", "tag: 'garden, @T'", "tags: a/@T/b",
]]  # fmt: skip
FOLDERS = ["@K/", "01 @K/", "📚 @K/", "1️⃣ @K/", "@K 0123456789abcdef0123456789abcdef/", "raw/@K/beds/"]

PROPERTIES = [
    "⟦kind:: @V\n⟧", "⟦Kind: @V  \n⟧", "⟦kind :: @V\n⟧", "⟦**Kind:** @V\n⟧", "⟦__kind__:: @V\n⟧", "⟦*kind*：@V\n⟧",
    "⟦\u200bkind:\u00a0@V\u200b\n⟧", "⟦%% kind: @V %%\n⟧", "⟦<!-- kind: @V -->\n⟧", "⟦- kind:: @V\n⟧",
    "⟦  * KIND: @V\n⟧", "⟦1. kind:: @V\n⟧", "⟦- [ ] kind:: @V\n⟧", "⟦> kind:: @V\n⟧", "⟦> - **Kind**: @V\n⟧",
    "before\n⟦kind:: @V\n⟧after", "- before\n⟦- kind:: @V\n⟧- after", "- before\n⟦  kind:: @V\n⟧- after",
    "> before\n⟦> kind:: @V\n⟧> after", "kind:: ⟦@V, ⟧garden", "kind: garden⟦, @V⟧",
    "- **Kind**: bed, ⟦@V, ⟧garden", "Kind: ⟦@V、⟧garden", "words ⟦[kind:: @V]⟧ words", "words ⟦(kind:: @V)⟧, words",
    "- words [Kind::⟦@V, ⟧garden]", "⟦[kind:: @V]⟧ leads", "⟦| Kind | @W |\n|---|---|\n⟧| Bed | 3 |",
    "⟦Kind | @W\n--- | ---\n⟧Bed | 3", "⟦|kind|@W|\n|:-:|-:|\n⟧", "⟦> | Kind | @W |\n> |---|---|\n⟧> | Bed | 3 |",
    "| Bed | 3 |\n|---|---|\n⟦| Kind | @W |\n⟧| Row | 4 |", "| **Kind** | ⟦@W, ⟧garden |\n|:--|--:|\n| Bed | 3 |",
]  # fmt: skip
TAGS = [
    "⟦tags:: @V\n⟧", "- before\n⟦- Tags: @V\n⟧", "tags:: ⟪[[⟫bed⟪]]⟫, ⟦@V, ⟧#garden", "tags:: ⟦#@T ⟧#garden",
    "tags: ⟦@T ⟧bed", "⟦#@T⟧ leads", "in ⟦#@T⟧ the middle", "ends ⟦#@T⟧", "before ⟦#@T⟧, a comma",
    "before ⟦#@T⟧. A stop", "in (⟦#@T⟧)", "two ⟦#@T⟧ #garden/bed", "two #🌱 ⟦#@T⟧", "「⟦#@T⟧」", "水。⟦#@T⟧、土",
    "no\u00a0break\u00a0⟦#@T⟧\u00a0here", "unseen ⟦\u200b#@T\u2060⟧.", "- [ ] task ⟦#@T⟧\n- next",
    "> quote ⟦#@T⟧\n> next", "| a ⟦#@T⟧ | b |\n|---|---|\n| c | d |", "**bold ⟦#@T⟧**", "## A title ⟦#@T⟧",
    "topic ⟦#[[@K]]⟧", "nested ⟦#kind/@T⟧ and ⟦#@T/2024⟧", "emoji ⟦#📝/@T⟧, ⟦#@T😀⟧", "- item ⟦#@T⟧\n  - below `#@T`",
    "[a link ⟦#@T⟧](x.md)", "`code` ⟦#@T⟧ `code`", "⟪[[⟫words⟪]]⟫ ⟦#@T⟧ ⟪[[⟫words⟪]]⟫",
]  # fmt: skip
SILENT = [
    "⟦# @K\n⟧", "⟦## 📝 @K\n⟧", "⟦### 01 @K\n⟧", "⟦# **@K**\n⟧", "⟦# @K:\n⟧", "⟦#\t@K\u200b\n⟧", "⟦## @K ##\n⟧",
    "⟦# \u200b@K\n⟧", "⟦# 1️⃣ @K\n⟧", "⟦## [@K](x.md)\n⟧", "⟦# ⟪[[⟫@K⟪]]⟫\n⟧", "⟦@K\n=====\n⟧", "⟦@K\n-----\n⟧",
    "⟦📝 @K\n---\n⟧", "⟦**@K**\n⟧after", "⟦__@K:__\n⟧", "⟦> ## @K\n⟧> after", "⟦- **@K**\n⟧- a", "⟦* # @K\n⟧",
    "⟦【@K】\n⟧", "⟦■@K\n⟧", "⟦> ⟪[!tip] ⟫@K\n⟧> words", "⟦up:: ⟪[[⟫@K⟪]]⟫\n⟧",
    "- a\n⟦- up:: ⟪[[Kinds/@K|⟫shown⟪]]⟫\n⟧", "⟦Up: [@K](x.md)\n⟧", "up:: ⟦⟪[[⟫@K⟪]]⟫, ⟧⟪[[⟫Bed⟪]]⟫",
    "words ⟦[up:: ⟪[[⟫@K⟪]]⟫]⟧ words",
]  # fmt: skip
OTHERS = [
    "Water early, not at noon 👩‍🌾🏽. Cafe\u0301, ein Maß, 50 %.",
    "کتاب‌ها را خواندم. שלום. नमस्ते दुनिया। สวัสดีครับ", "決めた。来月から家計簿はやめて、\n月に一度だけ通帳を見る。",
    "None of @K, in C# or at x.org/#@T, no C#@T, &#@T;", "kind: of blue\nany\n@K\nin the middle",
    "The kind: @K, and more of it", "above:: @K of beds", "Kind: not a @K at all",
    "⟪[[beds|⟫the beds⟪]]⟫ ⟪[[⟫Soil⟪]]⟫ ⟪[[Soil#⟫Clay⟪]]⟫", "the bed⟪![[bed.png|200]]⟫\nby the wall⟪ ^bed-1⟫",
    "up:: ⟪[[⟫Bed⟪]]⟫", "Write `#@T`, ``# @K ` #@T`` and `kind:: @K`; `[kind:: @K]`",
    "a `span over\nlines #@T` ends", "a ``#@T ` `` b", "```\n#@T\n# @K\n\nkind:: @K\n---\n[kind:: @K]\n```",
    "~~~~ yaml\ntags:: #@T\n~~~\n| Kind | @K |\n~~~~", "Dashes:\n\n    #@T\n\n    # @K\n\tkind:: @K",
    "- clay\n\n  ```\n  #@T\n  ```\n  - loam `#@T`\n1. first\n2. second",
    "- ```clojure\n  [:find ?b :where [?b :tag #@T]]\n  ```\n- roots",
    "> They:\n> > `#@T`\n> ~~~\n> kind:: @K\n> ~~~", "> ⟪[!info]- ⟫All\n> ```dataview\n> LIST FROM #@T\n> ```",
    "```tasks\ntags include #@T\n```", "`= this.kind` `#@T`",
    "- {{query (and #@T (task TODO))}}\n- {{embed ((b-1))}}", "#+BEGIN_QUERY\n{:query #@T}\nkind:: @K\n#+END_QUERY",
    "| Bed | Crop |\n|---|--:|\n| 1 | beans, @K |\n| kind | of bean |",
    "## Notes on @K and more\n\nHeading of @K\n-----", "frost ⟪![frost](data:image/png;base64,iVBORw0KGgo=)⟫ again",
    "a\n⟪<img alt='x' src=\"data:x,%3Ca b='#@T'/%3E\">⟫\nb",
    "a ⟪![frost][pic1]⟫ b\n\n⟪[pic1]: data:image/png;base64,iVBORw0KGgo=⟫\n\nc",
    "![x](x.png) https://example.org/a?b=c#@T",
]  # fmt: skip


@some.composite
def pieces(draw, templates, kinds, around=("",)):
    """A piece with a kind, spelled in one of the ways in which people write it."""
    template, kind, value = (draw(some.sampled_from(choices)) for choices in (templates, kinds, VALUES))
    change = draw(some.sampled_from([str, str.upper, str.title, lambda kind: kind + "s" * (kind in PLURAL)]))
    name = normalize(draw(some.sampled_from(["NFC", "NFD"])), change(kind))
    spelled = {
        "@V": value,
        "@W": value.replace("|⟫", "\\|⟫"),  # a bar in a table
        "@J": json.dumps(name, ensure_ascii=False),
        "@T": name.replace(" ", draw(some.sampled_from("-_"))),
        "@K": name + draw(some.sampled_from(around)),
    }
    for mark, words in spelled.items():
        template = template.replace(mark, words)
    return template


def several(templates, kinds, around=("",), least=0):
    return some.lists(pieces(templates, kinds, around), min_size=least, max_size=3)


def without(taken_out: str, note: str) -> str:
    """The text of a note below its head, without what is between these two signs, and without all signs."""
    for start, end in (taken_out, "⟪⟫"):
        note = re.sub(f"{start}[^{end}]*{end}", "", note)
    return normalize("NFC", re.sub("[⟦⟧]", "", note)).strip(" \n\u00a0" + "".join(UNSEEN))


def read(note: str, folder: str = "") -> tuple[str, str]:
    """Read the kind and the text of a note, without the signs, in a file."""
    with tempfile.TemporaryDirectory() as vault:
        file = Path(vault, folder, "note.md")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(re.sub("[⟦⟧⟪⟫]", "", note).encode())
        (found,) = notes_in(Path(vault), FIELDS)
    assert isinstance(found, Note), found
    return found.kind, found.text


@some.composite
def labelled(draw):
    """A kind, the name of a folder, a head and a body, one of which gives the kind."""
    way = draw(some.sampled_from([HEADS, PROPERTIES, TAG_HEADS, TAGS, FOLDERS]))
    kind = draw(some.sampled_from([kind for kind in KINDS if way is not FOLDERS or kind not in NO_FOLDERS]))
    giver = draw(pieces(way, [kind], UNSEEN))
    other_kinds = KINDS if way in (HEADS, PROPERTIES) else [kind]  # the field goes before tags
    blocks = [giver] if way in (PROPERTIES, TAGS) else []
    blocks += draw(several(OTHERS, KINDS, least=1)) + draw(several(SILENT, KINDS, UNSEEN))
    blocks += draw(several(TAGS, other_kinds, UNSEEN))
    body = "\n\n".join(draw(some.permutations(blocks)))
    return kind, giver if way is FOLDERS else "", giver if way in (HEADS, TAG_HEADS) else "", body


@some.composite
def unlabelled(draw):
    """A body that names kinds where they do not count, or two of them."""
    kinds = [kind for kind in KINDS if "/" not in kind]  # of a link to a page in a folder the page's name stays
    blocks = draw(several(OTHERS, kinds, least=1)) + draw(several(SILENT, kinds, UNSEEN))
    if draw(some.booleans()):
        two = draw(some.lists(some.sampled_from(kinds), min_size=2, max_size=2, unique=True))
        blocks += [draw(pieces(TAGS, [kind], UNSEEN)) for kind in two]
    return "\n\n".join(draw(some.permutations(blocks)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(labelled())
def test_kind_is_found_and_taken_out_and_the_rest_is_unchanged(note):
    kind, folder, head, body = note
    assert read(head + body, folder) == (names.normalize(kind), without("⟦⟧", body))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(unlabelled())
def test_note_without_a_kind_keeps_what_names_kinds(body):
    assert read(body) == ("", without("⟪⟫", body))
