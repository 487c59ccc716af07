"""Markup of a note: what names its kind, what is taken out of the text, and what stays."""

import json
import subprocess
import sys

import pytest

from onelap.notes.fields import Fields
from onelap.notes.markup import Body

KINDS = ("lesson", "knowledge", "design decision", "none")
MANY = 300_000  # characters, for which a pattern of quadratic time needs minutes, and one of linear time a second
READ = """
import json, sys
from onelap.notes.fields import Fields
from onelap.notes.head import split_head
from onelap.notes.markup import Body

content, kinds = json.load(sys.stdin)
head, text, _ = split_head(content)
body = Body(text, Fields(tuple(kinds)))
print(json.dumps([sorted(body.field | body.tags), *body.text("lesson")]))
"""


def learnt(text, kind="lesson", kinds=KINDS, field="kind"):
    """What is learnt from a note of that kind, and how often something was taken out of it."""
    return Body(text, Fields(kinds, kind=field)).text(kind)


def named(text, kinds=KINDS, field="kind"):
    """The kinds that properties and tags of a text name."""
    body = Body(text, Fields(kinds, kind=field))
    return body.field | body.tags


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        ("Water early. #lesson", "Water early.", {"tag": 1}),
        ("#kind/design-decision Gravel. #garden", "Gravel. #garden", {"tag": 1}),
        ("#lessonplan and C#lesson stay", "#lessonplan and C#lesson stay", {}),
        ("# Lesson\n\nWater early.", "Water early.", {"heading": 1}),
        ("## Lessons learned\ntext", "## Lessons learned\ntext", {}),
        ("**Design decision:**\nGravel.", "Gravel.", {"heading": 1}),
        ("kind:: knowledge\nIt boils.", "It boils.", {"property": 1}),
        ("Kind: of blue\ntext", "Kind: of blue\ntext", {}),
        ("None of this is a lesson.", "None of this is a lesson.", {}),
        ("see [[garden/beds|the beds]] and [[lessons/2021#Top]]", "see the beds and Top", {}),
        ("![[scan.png]]\ntext ^a1b2", "text", {}),
        ("- a\n- > [!info]- Bees\n  > hum", "- a\n- > Bees\n  > hum", {}),
        ("`#lesson` and\n```\n# Lesson\n[[ -f x ]]\n```", "`#lesson` and\n```\n# Lesson\n[[ -f x ]]\n```", {}),
    ],
)
def test_what_gives_the_kind_away_is_taken_out_and_counted(text, expected, removed):
    assert learnt(text) == (expected, removed)


@pytest.mark.parametrize(
    "text",
    [
        "Water early. #lesson #knowledge",
        "# Lesson\n\nWater early.",
        "Lesson\n===\nWater early.",
        "**Design decision:**\nGravel.",
        "kind:: lesson, knowledge\nWater early.",
        "| Kind | Lesson |\n|---|---|\n| Kind | None |",
    ],
)
def test_note_without_a_kind_keeps_what_names_kinds(text):
    assert learnt(text, kind="") == (text, {})


@pytest.mark.parametrize(
    ("text", "field", "tags"),
    [
        ("kind:: lesson\n#knowledge", {"lesson"}, {"knowledge"}),
        ("[kind:: Lessons] and (Kind:: [[None]])", {"lesson", "none"}, set()),
        ("tags:: [[lesson]], #garden\n#[[Design Decision]]", set(), {"lesson", "design decision"}),
        ("# Lesson\nup:: [[None]]\nsee [[Knowledge]]", set(), set()),
        ("| Kind | Lesson |\n|---|---|\n| Tags | none, garden |", {"lesson"}, {"none"}),
        ("as I said (in short: #lesson), [see:: #none] (a: b, #knowledge)", set(), {"lesson", "none", "knowledge"}),
    ],
)
def test_kinds_are_named_by_the_field_and_by_tags(text, field, tags):
    body = Body(text, Fields(KINDS))
    assert (body.field, body.tags) == (field, tags)


@pytest.mark.parametrize(
    "text",
    [
        "[Value](#none)",
        "see [[#Lesson]] there",
        "[[My Note (2024)#None]]",
        '<a href="#lesson">',
        "C#lesson",
        "&#lesson",
        "\\#lesson",
        "x.org/#lesson and x.org/a?b=#lesson",
        "##lesson",
        "_#lesson",
    ],
)
def test_link_is_not_a_tag(text):
    assert named(text) == set()


def test_lines_that_happen_to_name_a_kind_are_kept():
    for text in ("I have\nnone\nleft", "Price:\nnone:\n10", "a\nlesson\nb", "I have\nnone\n---\nleft"):
        assert learnt(text) == (text, {})


@pytest.mark.parametrize(
    "line",
    [
        "# Lesson",
        "# 📝 Lesson",
        "# 1️⃣ Lesson",
        "# 01 Lesson",
        "# Lesson.",
        "## Lesson ##",
        "# \u200bLesson\u200b",
        "#\u00a0Lesson",
        "> # Lesson",
        "# Lesson #garden",
        "- **Lesson**",
        "* **Lesson**",
        "1. **Lesson**",
        "# #lesson",
        "> [!tip] Lesson",
        "> [!tip|wide]- Lesson",
        "# Lesson ^top",
        "# [[Lesson]]",
        "# [Lesson](kinds/lesson.md)",
        "Lesson\n======",
        "> Lesson\n> ---",
    ],
)
def test_heading_that_is_just_a_kind_is_taken_out(line):
    assert learnt(f"Bees.\n\n{line}\nWater early.") == ("Bees.\n\nWater early.", {"heading": 1})


@pytest.mark.parametrize("line", ["Lesson", "Lesson:", "**Lesson**", "\u200b\nLESSON", "- Lesson"])
def test_first_line_that_is_just_a_kind_is_taken_out(line):
    assert learnt(f"{line}\nWater early.") == ("Water early.", {"heading": 1})
    assert learnt(f"Bees.\n{line}s too\nWater early.")[0] == f"Bees.\n{line}s too\nWater early."


@pytest.mark.parametrize("line", ["# 学び：", "【学び】", "■学び", "#学び", "種類:: 学び", "種類：学び"])
def test_japanese_kinds_are_taken_out(line):
    assert learnt(f"{line}\n水は早く。", kinds=("学び", "知識"), field="種類")[0] == "水は早く。"


@pytest.mark.parametrize(
    "line",
    [
        "[kind:: lesson]", "(kind:: lesson)", "- kind:: lesson", "> kind: lesson", "%% kind: lesson %%", "tags: lesson",
        "kind:: #lesson", "**kind**: lesson", "kind: [[Lesson]]", "1. kind:: lesson", "- [ ] kind:: lesson",
        "<!-- kind: lesson -->", "| kind | lesson |", "up:: [[Lessons]]", "**Kind:** Lesson", "kind：lesson",
        "kind:: lesson ^k1",
    ],
)  # fmt: skip
def test_property_that_is_just_a_kind_is_taken_out(line):
    assert learnt(f"Water early.\n{line}") == ("Water early.", {"property": 1})


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("tags:: [[lesson]], [[garden]]", "tags:: garden"),
        ("tags:: #garden #lesson", "tags:: #garden"),
        ("kind:: garden, lesson, bed", "kind:: garden, bed"),
        ("Kind: Lesson、garden", "Kind: garden"),
        ("| Kind | lesson | 2024 |", "| Kind | 2024 |"),
        ("up:: [[Garden]], [[Lessons]]", "up:: Garden"),
        ("x [up:: [[Garden]], [[Lessons]]]", "x [up:: Garden]"),
        ("x [see:: [[Garden|the bed]]]", "x [see:: the bed]"),
    ],
)
def test_other_values_of_a_property_stay(line, left):
    assert learnt(f"Water early.\n{line}")[0] == f"Water early.\n{left}"


@pytest.mark.parametrize(
    ("table", "left"),
    [
        ("| Kind | Lesson |\n|---|---|\n| Bed | 3 |", "| Bed | 3 |"),
        ("Kind | Lesson\n--- | ---\nBed | 3", "Bed | 3"),
        ("> | Kind | Lesson |\n> |---|---|\n> | Bed | 3 |", "> | Bed | 3 |"),
        ("| Bed | 3 |\n|---|---|\n| Kind | Lesson |", "| Bed | 3 |\n|---|---|"),
        ("| Kind | Text |\n|---|---|\n| Lesson | x |", "| Kind | Text |\n|---|---|\n| Lesson | x |"),
        ("| Kind | [[Kinds/Lesson\\|shown]] |\n|---|---|\n| Bed | 3 |", "| Bed | 3 |"),
    ],
)
def test_row_of_a_table_is_a_property(table, left):
    assert learnt(f"Water early.\n\n{table}")[0] == f"Water early.\n\n{left}"


def test_code_and_arithmetic_are_kept():
    for text in ("~~~\n# Lesson\n~~~", "Use ``` to fence. Then `#none`.", "the power 2 ^10"):
        assert learnt(text) == (text, {})
    assert learnt("Use ``` to fence.\n\n#lesson") == ("Use ``` to fence.", {"tag": 1})
    assert learnt("text\n^block-id") == ("text", {})
    assert learnt("[[Note#^abc]] and [[Note#Part]]")[0] == "Note and Part"


@pytest.mark.parametrize(
    "text",
    [
        "``a ` #lesson``",
        "a `span\nof #lesson` lines",
        "\\`#x and `#lesson`",
        "x\n```\n# Lesson\n\nkind:: lesson",
        "````\n```\n#lesson\n````",
        "x\n\n    #lesson\n\n\tkind:: lesson",
        "- a\n\n      # Lesson",
        "10. a\n    ~~~\n    kind:: lesson\n    ~~~",
        "> - ```\n>   #lesson\n>   ```",
        "- - ```\n    #lesson\n    ```",
        "-\t```\n\t#lesson\n\t```",
        "```dataview\nTABLE kind FROM #lesson\n```",
        "`= this.kind` `$= dv.pages('#lesson')`",
        "```tasks\ntag includes #lesson\n```",
        "- {{query (and [[lesson]] #lesson)}}",
        "#+BEGIN_QUERY\n{:query #lesson}\nkind:: lesson\n#+END_QUERY",
        "- #+BEGIN_SRC sh\n  #lesson\n  #+END_SRC",
    ],
)
def test_code_and_queries_name_no_kind_and_are_not_changed(text):
    assert (named(text), learnt(text)) == (set(), (text, {}))


def test_code_is_not_confused_by_what_looks_like_its_end():
    text = "- a `b\n- #lesson `c` d\n\n```\n~~~\n```\n#lesson\n~~~\n#lesson"
    assert learnt(text) == ("- a `b\n-  `c` d\n\n```\n~~~\n```\n\n~~~\n#lesson", {"tag": 2})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a ![x](data:image/png;base64,iVBORw0K) b", "a  b"),
        ("a ![x|200](<data:image/png;base64,iVBORw0K> 'title') b", "a  b"),
        ("a ![x](data:image/svg+xml,%3Csvg fill='rgb(1,2)'%3E) b", "a  b"),
        ("a ![x [y]](data:image/png;base64,iVBORw0K) b", "a  b"),
        ("a ![x][1] b\n\n[1]: data:image/png;base64,iVBORw0K", "a  b"),
        ("> a ![x][1] b\n>\n> [1]: data:image/png;base64,iVBORw0K", "> a  b\n>\n>"),
        ('a <img alt="x"\nsrc="data:image/png;base64,iVBORw0K"/> b', "a  b"),
        ("a <IMG SRC='data:image/svg+xml,%3Csvg%3E'> b", "a  b"),
        ("a <img src=data:image/png;base64,iVBORw0K width=3> b", "a  b"),
        ("a url(data:image/png;base64," + "iVBORw0K" * 9 + ") b", "a url() b"),
    ],
)
def test_embedded_picture_is_taken_out_and_counted_whatever_the_kind(text, left):
    assert learnt(text) == learnt(text, kind="") == (left, {"picture": 1})


def test_picture_of_two_megabytes_is_taken_out_wherever_it_stands():
    picture = "data:image/png;base64," + "A" * 2_000_000
    for text, left in ((f"a ![x]({picture}) b", "a  b"), (f"cover: {picture}\nb", "cover: \nb"), (picture, "")):
        assert learnt(text) == (left, {"picture": 1})


def test_picture_elsewhere_and_the_word_data_stay():
    text = "![frost](scan.png) ![x](https://x.org/data:1) metadata: of beds, data: 5 (see [x](y)) <img src='a.png'>"
    assert learnt(text) == (text, {})


DRAWING = """==⚠  Switch to EXCALIDRAW VIEW in the MORE OPTIONS menu of this document. ⚠==

# Excalidraw Data

## Text Elements
Beans against the wall ^a1B2c3D4

%%
## Drawing
```compressed-json
N4KAkARALgngDgUwgBAQQQDwMYEMA2AlgCYBOuA7hADTgQBuCpAzoQPYB2KqATL

ZMzYBXUtiRoIACyhQ4zZAHoFAc0JRJQgEYA6bGwC2CgF7N6hbEcK4OCtptbErHALRY
```
%%
"""
BOARD = '## To water\n\n- [ ] beans\n\n%% kanban:settings\n```\n{"kanban-plugin":"board"}\n```\n%%'
JOPLIN = """Frost took the beans.

id: 0123456789abcdef0123456789abcdef
parent_id: 0123456789abcdef0123456789abcdef
author:
is_todo: 0
type_: 1"""


@pytest.mark.parametrize(
    ("text", "left", "what"),
    [
        (DRAWING, "Beans against the wall", "drawing"),
        (BOARD, "## To water\n\n- [ ] beans", "board"),
        (JOPLIN, "Frost took the beans.", "footer"),
        ("Frost took the beans.\n\n---\nExported from Bear on 5 January 2024", "Frost took the beans.", "footer"),
        ("Frost took the beans.\n\n*Created with Evernote*", "Frost took the beans.", "footer"),
        ("Frost took the beans.\n--\nSent from my iPhone\n", "Frost took the beans.", "footer"),
        ("Der Frost nahm die Bohnen.\n\nGesendet von meinem iPhone", "Der Frost nahm die Bohnen.", "footer"),
        ("Le gel a pris les haricots.\n\nEnvoyé de mon iPhone", "Le gel a pris les haricots.", "footer"),
    ],
    ids=["Excalidraw", "Kanban", "Joplin", "Bear", "Evernote", "iPhone", "German", "French"],
)
def test_what_programs_write_is_taken_out_and_counted(text, left, what):
    found, removed = learnt(text, kind="")
    assert found == left and removed[what] >= 1


@pytest.mark.parametrize(
    "text",
    [
        "I forgot it.\n\nSent from home without a coat.",
        "We decided.\n\nCreated a bed from old wood and stones.",
        "I moved.\n\nSent Ana a letter with the seeds.",
        "Bread.\n\nSent from my phone, I wrote to Ana that we leave.",
        "What I made:\n\nGenerated heat by composting leaves",
        "Exported from Bear\n\nThen I lost it.",
        "# Drawing\n\nI drew the bed.\n\n```json\n{}\n```",
        "Text Elements\n\n## Text elements of a page",
        "id: 0123\nauthor: me",
    ],
)
def test_what_a_person_wrote_is_not_taken_for_a_program(text):
    assert learnt(text, kind="") == (text, {})


def test_marks_that_nobody_sees_are_not_part_of_a_note():
    assert learnt("\ufeff\u200b \n\u200e\nWater early.\u200b\n\u200b") == ("Water early.", {})
    assert learnt("Water early. \u200b#lesson\u2060") == ("Water early.", {"tag": 1})
    family = "👩\u200d🌾 کتاب\u200cها, co\u00adop\u200berate"
    assert learnt(family) == (family, {}), "inside the text everything stays, joiners above all"


@pytest.mark.parametrize(
    ("content", "kinds", "text", "removed"),
    [
        ("#lesson x\n" + " " * MANY + "x", ["lesson"], "x\n" + " " * MANY + "x", {"tag": 1}),
        ("x\nkind:" + " " * MANY + "lesson", [], "x\nkind:" + " " * MANY + "lesson", {}),
        ("lesson" + "_" * MANY + "x", [], "lesson" + "_" * MANY + "x", {}),
        ("lesson" + "*" * MANY, [], "lesson" + "*" * MANY, {}),
        ("x ^a" + " " * MANY + "x", [], "x ^a" + " " * MANY + "x", {}),
        ("> " * (MANY // 2) + "x", [], "> " * (MANY // 2) + "x", {}),
        ("x " + "`" * MANY + " " + "`" * (MANY - 1), [], "x " + "`" * MANY + " " + "`" * (MANY - 1), {}),
        ("x " + "`" * MANY + " " + "`" * (MANY + 1), [], "x " + "`" * MANY + " " + "`" * (MANY + 1), {}),
        ("![[a" * (MANY // 4), [], "![[a" * (MANY // 4), {}),
        ("[[" + "a" * MANY, [], "[[" + "a" * MANY, {}),
        ("#" + "1" * MANY, [], "#" + "1" * MANY, {}),
        ("\n" * (MANY // 3) + "#lesson x", ["lesson"], "x", {"tag": 1}),
        ("# Lesson\n" * (MANY // 9) + "x", [], "x", {"heading": MANY // 9}),
        ("---\n" + "-" * MANY + "\nx", [], "---\n" + "-" * MANY + "\nx", {}),
        ("{" * MANY, [], "{" * MANY, {}),
    ],
    ids=["spaces", "property", "underscores", "asterisks", "block id", "quotes", "fewer backticks", "more backticks",
         "embeds", "link", "tag", "blank lines", "headings", "rules", "braces"],
)  # fmt: skip
def test_pathological_text_is_read_in_linear_time(content, kinds, text, removed):
    """In a process that can be ended: nothing else stops a pattern, on Windows."""
    command = [sys.executable, "-c", READ]
    result = subprocess.run(command, input=json.dumps([content, KINDS]), capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [kinds, text, removed]


UNITS = [
    "kind", "kind: ", "kind:: a, ", "[kind:: ", "(kind:: (", "tags: a ", "tags:: [[a]] ", "a\n=", "a\n---\n", "| ",
    "|-", "a:: [[b]], ", "| kind | a |\n", "|---|---|\n", "![x](data:", "data:image/png;base64,", "<img src=",
    "<img src='data:'", "<img ", "![a](data:(", "[1]: data:", "\u200b", "\u200b\n", "\u00a0\n", "#\u200b", "{{",
    "{{a}} ", "{{{", "}}", "#+begin_src\n", "#+end_src\n", "#+begin_src\n#+end_src\n", "- ", "- a\n", "> - ", "1. ",
    "  ", "%%\n", "%%kanban:settings\n", "## Drawing\n", "a: b\n", "## Drawing\n```json\n", "==⚠ EXCALIDRAW ",
    "\n- ", "\n---", "\nSent from ", "id: 0123456789abcdef0123456789abcdef\na:\n", "[!x]", "> [!x] ", "[[a|",
    "[a](", "#[[", "#a/", "#💡", "**", "# ", "`a", "```\n", "~~~\n", "\\`", "e\u0301", "\u0301", "👩\u200d", "<!--",
    "-->", "- [ ] ", "【", "https://x.org/#a ", "*a_", "^a ", "    a\n", "`` ` ", "a, ",
]  # fmt: skip


def test_repeated_markup_is_read_in_linear_time():
    """In a note of 30,000 characters each piece takes a tenth of a second, or many of them where time is not linear."""
    contents = [f"{first}{unit * (30_000 // len(unit))} x" for unit in UNITS for first in ("", "x\n")]
    program = """
import json, sys, time
from onelap.notes.fields import Fields
from onelap.notes.markup import Body

for content in json.load(sys.stdin):
    print(ascii(content[:50]), flush=True)
    start = time.process_time()
    Body(content, Fields(("lesson", "none"))).text("lesson")
    assert time.process_time() - start < 2
print("all")
"""
    read = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        shown, _ = read.communicate(json.dumps(contents), timeout=100)
    except subprocess.TimeoutExpired:
        read.kill()
        shown, _ = read.communicate()
    assert shown.splitlines()[-1] == "all", "the last one that was begun takes too long"
