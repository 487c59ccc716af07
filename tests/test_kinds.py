"""Names of kinds, as people write them in fields, tags, links, headings and folders."""

import pytest

from onelap.notes.kinds import kind_in, kinds_in, named_after, words_of

KINDS = ("lesson", "knowledge", "design decision", "q&a", "c++", "work/lesson", "💡 idea", "学び", "décision", "none")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Lessons", "lesson"),
        ("LESSON", "lesson"),
        ("Design-Decisions", "design decision"),
        ("design_decision", "design decision"),
        ("DesignDecision", "design decision"),
        ("Design\u00a0 decision", "design decision"),
        ("01 Lessons", "lesson"),
        ("1.2 Lesson", "lesson"),
        ("3) Lesson", "lesson"),
        ("01_Lessons", "lesson"),
        ("📚 Knowledge", "knowledge"),
        ("Knowledge 📚", "knowledge"),
        ("👩‍🌾🏽 Lesson", "lesson"),
        ("1️⃣ Lessons", "lesson"),
        ("Lessons 0123456789abcdef0123456789abcdef", "lesson"),
        ("Lessons 📚 0123456789abcdef0123456789abcdef", "lesson"),
        ("**Lesson:**", "lesson"),
        ("【学び】", "学び"),
        ("学ひ\u3099", "学び"),
        ("de\u0301cision", "décision"),
        ("Ｌｅｓｓｏｎ", "lesson"),
        ("\u200bles\u00adson\ufeff", "lesson"),
        ("idea", "💡 idea"),
        ("💡idea", "💡 idea"),
        ("C++", "c++"),
        ("Q&A:", "q&a"),
        ("work/Lessons", "work/lesson"),
        ("lesson learned", ""),
        ("lesson 2", ""),
        ("C", ""),
        ("a lesson", ""),
        ("lessonlesson", ""),
        ("", ""),
        ("💡", ""),
        ("2024", ""),
        ("s", ""),
    ],
)
def test_kind_is_recognized_in_the_spellings_of_a_name(name, kind):
    assert named_after(name, KINDS) == kind


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("new", "news"), {"new": "new", "news": "news", "News!": "news", "📰 new": "new"}),
        (("news", "new"), {"new": "new", "news": "news"}),
        (("idea", "💡 idea"), {"idea": "idea", "💡 idea": "💡 idea", "ideas": "idea", "✨ idea": "idea"}),
        (("c", "c++", "c#"), {"C": "c", "C++": "c++", "c#": "c#", "**C#**": "c#"}),
        (("class", "classes", "box"), {"classes": "classes", "class": "class", "boxes": "box"}),
        (("0", "1", "2024"), {"1": "1", "2024": "2024", "2": "", "1.0": "", "0.1": "", "3-1": "", "02 1": ""}),
        (("💡", "?"), {"💡": "💡", "?": "?", "!": ""}),
    ],
)
def test_nearer_name_goes_before_one_that_is_only_alike(names, expected):
    assert {name: named_after(name, names) for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("lesson", "lesson"),
        ("#lesson", "lesson"),
        ("kind/Lessons", "lesson"),
        ("#lesson/2024/bees", "lesson"),
        ("#📝/lesson", "lesson"),
        ("[[Lesson]]", "lesson"),
        ("#[[Design Decision]]", "design decision"),
        ("[[Kinds/Lesson#x]]", "lesson"),
        ("[[Kinds/Lesson#x|shown]]", "lesson"),
        ("[[2024|Lesson]]", "lesson"),
        ("[[2024\\|Lesson]]", "lesson"),
        ("[[Kinds/Lesson\\|shown]]", "lesson"),
        ("[Lesson](kinds/one.md)", "lesson"),
        ("[one](kinds/Lesson.md)", "lesson"),
        ("[one](<kinds/Design decision.md>)", "design decision"),
        ("[one](kinds/Design%20decision.md)", "design decision"),
        ('"lesson"', "lesson"),
        ("  'Lesson' ", "lesson"),
        ("work/lesson", "work/lesson"),
        ("areas/work/lesson", "work/lesson"),
        ("[[Work/Lesson]]", "work/lesson"),
        ("C++/deep", "c++"),
        ("lesson, garden", ""),
        ("lesson learned", ""),
        ("lessonplan", ""),
        ("[[Lesson]] [[Garden]]", ""),
        ("[[]]", ""),
        ("#", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_kind_of_a_value_is_read_from_links_tags_and_paths(value, kind):
    assert kind_in(value, KINDS) == kind


def test_kinds_of_values_are_each_listed_once():
    assert kinds_in(["garden", "type/Lessons", "#lesson", "design_decision"], KINDS) == ["design decision", "lesson"]
    assert kinds_in([], KINDS) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[[d/Diary|mine]]", ["d/Diary", "mine"]),
        ("[[Diary#May]]", ["Diary"]),
        ("[mine](d/Diary.md)", ["d/Diary", "mine"]),
        ("plain [[words]] here", ["plain [[words]] here"]),
        ("[[#Top]]", ["[[#Top]]"]),
    ],
)
def test_words_of_a_link_are_its_target_and_then_what_is_shown(value, words):
    assert words_of(value) == words
