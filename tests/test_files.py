"""A vault of hostile files, bytes and all: the reader names every one of them and never stops."""

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from onelap import UserError
from onelap.machine.encoding import Unreadable, decode
from onelap.machine.files import files_below
from onelap.notes.fields import Fields
from onelap.notes.vault import read_notes
from tests.conftest import JAPANESE

FIELDS = Fields(("lesson", "knowledge", "value", "decision", "none"))
ENGLISH = "The café’s “late” bus: £2, not £3."


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        ("plain", "ascii", "utf-8"),
        (JAPANESE + "👩‍🌾 שלום", "utf-8", "utf-8"),
        (ENGLISH, "utf-8-sig", "utf-8-sig"),
        (JAPANESE, "utf-16", "utf-16"),
        (JAPANESE, "shift_jis", "shift_jis"),
        ("会議は三時から", "shift_jis", "shift_jis"),
        (JAPANESE, "euc_jp", "euc_jp"),
        ("会議は三時から", "euc_jp", "euc_jp"),
        (JAPANESE, "iso2022_jp", "iso2022_jp"),
        (ENGLISH, "cp1252", "cp1252"),
        ("café", "latin-1", "cp1252"),
        ("\x1b[31mred\x1b[0m", "ascii", "utf-8"),
        ("・牛乳\n・卵\n・パン", "euc_jp", "euc_jp"),
        ("今日はﾃﾞｰﾀを整理した ①", "cp932", "cp932"),
        ("買う〜", "shift_jis", "shift_jis"),
        ("# logrotateの", "euc_jp", "euc_jp"),
        ("ﾃｽﾄ", "iso2022_jp_ext", "iso2022_jp_ext"),
        ("It’s late.", "cp1252", "cp1252"),
        ("Oven at 180° for 20 min, then 150°.", "cp1252", "cp1252"),
        ("½ cup, £2", "cp1252", "cp1252"),
        ("Ça va? Größe: 5 µm", "cp1252", "cp1252"),
        ("no mark", "utf-16-le", "utf-16-le"),
        ("no mark", "utf-16-be", "utf-16-be"),
    ],
)
def test_decode_returns_the_text_and_names_its_encoding(text, encoding, told):
    assert decode(text.encode(encoding)) == (text, told)


def test_decode_loses_one_character_for_a_bad_byte():
    data = bytearray(JAPANESE.encode("utf-8"))
    data[30] = 0xFF
    text, told = decode(bytes(data))
    assert told.startswith("utf-8, ") and told.endswith("characters broken") and text.endswith(JAPANESE[20:])


@pytest.mark.parametrize("data", [b"MZ\x90\x00\x03", b"a\x00b", bytes(range(256)), b"\xff\xfea"])
def test_decode_refuses_binary_data(data):
    with pytest.raises(Unreadable, match="binary"):
        decode(data)


def times_of(vault):
    """When each entry was last changed; os.walk, since pathlib before 3.11.7 stops at a link that is too long."""
    entries = [Path(folder, name) for folder, folders, files in os.walk(vault) for name in folders + files]
    return {path: path.lstat().st_mtime_ns for path in entries}


def test_reader_reads_or_names_every_file_of_a_hostile_vault(hostile_vault):
    before = times_of(hostile_vault)
    reading = read_notes(hostile_vault, FIELDS)
    texts = dict(reading.notes[["id", "text"]].values)
    assert texts["crlf and spaces.txt"] == "Be kind.\nAlways." and texts["cr.txt"] == "One.\nTwo."
    assert texts["日本/メモ.md"] == texts["wide.md"] == JAPANESE
    assert {"two\nlines", "a row"} <= set(texts.values())
    assert texts["tagged.md"] == "A  about gravel." and texts["broken but filed.md"] == "Still ."
    kinds = dict(reading.notes[["id", "kind"]].values)
    assert kinds["Lessons/filed.md"] == "lesson" and kinds["tagged.md"] == "decision"
    encodings = dict(reading.notes[["id", "encoding"]].values)
    assert (encodings["日本/メモ.md"], encodings["bom.md"], encodings["wide.md"]) == (
        "shift_jis",
        "utf-8-sig",
        "utf-16",
    )
    reasons = dict(reading.skipped[["where", "reason"]].values)
    expected = {
        "broken.md": "broken front matter, and no kind elsewhere",
        "unlabelled.md": "no kind",
        "undecided.md": "tags of several kinds: lesson, value",
        "only its kind.md": "no text beside what names its kind",
        "empty.md": "no text",
        "blank.md": "no text",
        "binary.md": "binary: holds NUL",
        "photo.png": "not a note: .png suffix",
        "no suffix": "not a note: without suffix",
        "huge.txt": "over 1 MB",
        ".hidden.md": "hidden",
        ".obsidian": "hidden",
        "Templates": "templates",
        "_attachments": "attachments",
        "rows.jsonl line 3": "the field `text` is not text",
        "rows.jsonl line 4": "not JSON",
        "rows.jsonl line 5": "not a JSON object",
        "table.csv line 4": "no kind",
    }
    if hasattr(os, "mkfifo"):
        expected |= {
            "dangling.md": "link to nothing",
            "loop": "link to a folder that is read anyway",
            "a link to below": "link to a folder that is read anyway",
            "too long.md": "cannot be opened: File name too long",
            "pipe.md": "not a regular file",
        }
        assert "caf\ufffd.md" in texts
    assert reasons == expected
    assert dict(reading.skipped[["where", "count"]].values)[".obsidian"] == 2
    assert reading.removed == {"tag": 3}
    assert times_of(hostile_vault) == before, "nothing on disk is changed"


def test_folder_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "good.md").write_text("text #lesson", encoding="utf-8")
    (tmp_path / "gone").mkdir()
    walk = files_below(tmp_path, ())
    assert next(walk)[0].name == "good.md"
    (tmp_path / "gone").rmdir()
    assert [(path.name, reason) for path, _, reason in walk] == [
        ("gone", "folder cannot be opened: No such file or directory")
    ]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("node_modules", "files of a program"),
        ("work/Site-Packages", "files of a program"),
        ("__pycache__", "files of a program"),
        ("venv", "files of a program"),
        ("Attachments", "attachments"),
        ("99_assets", "attachments"),
        ("📎 Media", "attachments"),
        ("Templates", "templates"),
        ("99 - Template", "templates"),
        ("_templates_", "templates"),
        ("テンフ\u309aレート", "templates"),
        ("Meine Vorlagen", "templates"),
        ("mode\u0300les", "templates"),
        (".trash", "hidden"),
    ],
)
def test_folder_without_notes_is_passed_over_by_its_name_with_a_count(tmp_path, folder, reason):
    for name in ("a.md", "b.txt", "deep/c.md", "deep/node_modules/d.js"):
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text("#lesson", encoding="utf-8")
    templates = ("template", "templates", "テンプレート", "meine vorlagen", "modèles")
    assert list(files_below(tmp_path, templates)) == [(tmp_path / folder, 4, reason)]


@pytest.mark.parametrize("folder", ["Template ideas", "Filesystem", "my venv", "modules", "Media studies", "Vorlagen"])
def test_folder_with_a_similar_name_is_read(tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.md").write_text("text", encoding="utf-8")
    assert list(files_below(tmp_path, ("template", "templates"))) == [(tmp_path / folder / "a.md", 1, "")]


def test_virtual_environment_is_known_by_what_is_in_it_whatever_its_name(tmp_path):
    (tmp_path / "my python/lib").mkdir(parents=True)
    (tmp_path / "my python/pyvenv.cfg").touch()
    (tmp_path / "my python/lib/note.txt").touch()
    assert list(files_below(tmp_path, ())) == [(tmp_path / "my python", 2, "files of a program")]


def test_template_folders_are_read_where_no_name_is_given(tmp_path):
    (tmp_path / "Templates").mkdir()
    (tmp_path / "Templates/a.md").write_text("#lesson text", encoding="utf-8")
    assert list(read_notes(tmp_path, Fields(FIELDS.kinds, template_folders=())).notes["id"]) == ["Templates/a.md"]


def is_json(value) -> bool:
    """Tell whether JSON can carry a value."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


names = some.sampled_from(["text", "source", "style", "tags", "id", "x"])
values = some.recursive(
    some.one_of(
        some.none(), some.booleans(), some.integers(), some.floats(), some.dates(),
        some.sampled_from(["value", "#lesson", "[[None]]", "none of these", ""]), some.text(max_size=8),
    ),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
properties = some.builds(
    lambda some_of_them, kind: some_of_them | kind,
    some.dictionaries(names, values),
    some.fixed_dictionaries(
        {}, optional={"Kind": some.sampled_from(["Value", "#lesson", ["[[None]]"], None, True, ""])}
    ),
)
anything = some.one_of(
    some.binary(max_size=200),
    some.text(max_size=200).map(lambda text: text.encode("utf-8")),
    some.builds(
        lambda head, text: f"---\n{head}\n---\n{text}".encode(),
        some.text(max_size=60),
        some.text(max_size=60),
    ),
    some.text(alphabet="#[]|!`>-_: \nlesonvau/^*", max_size=120).map(str.encode),
    # Front matter, rows and tables with structure, from the kinds of values that break naive readers.
    some.builds(lambda head: f"---\n{yaml.safe_dump(head)}---\ntext".encode(), properties),
    some.builds(
        lambda rows: "\n".join(map(json.dumps, rows)).encode(),
        some.lists(properties.filter(is_json), max_size=3),
    ),
    some.builds(
        lambda cells: ("text,kind\n" + ",".join(cells)).encode(),
        some.lists(some.sampled_from(["a", "value", "\n", '"', ";", ""]), max_size=9),
    ),
)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    files=some.lists(
        some.tuples(some.sampled_from([".md", ".txt", ".jsonl", ".csv"]), anything), min_size=5, max_size=9
    )
)
def test_reader_accounts_for_every_generated_file(tmp_path_factory, files):
    """250 folders of 5 to 9 files: more than 1,000 files."""
    folder = tmp_path_factory.mktemp("generated")
    for number, (suffix, data) in enumerate(files):
        (folder / f"{number}{suffix}").write_bytes(data)
    (folder / "sure.md").write_bytes(b"---\nkind: value\n---\nsure")
    try:
        reading = read_notes(folder, FIELDS)
    except UserError as error:  # a generated kind that is none of the five
        assert "expected the kinds" in str(error)
        return
    told = set(reading.notes["id"]) | set(reading.skipped["where"])
    for path in folder.iterdir():
        assert any(where == path.name or where.startswith(f"{path.name} ") for where in told), f"{path.name} is nowhere"
    single = {path.name for path in folder.iterdir() if path.suffix in (".md", ".txt")}
    read = [where for where in reading.notes["id"] if where in single]
    passed = reading.skipped.loc[reading.skipped["where"].isin(single)]
    assert sorted(read + list(passed["where"])) == sorted(single)
    assert (reading.notes["text"].str.strip() != "").all()


@settings(max_examples=300, deadline=None)
@given(
    text=some.text(alphabet=some.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    encoding=some.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_decode_returns_any_unicode_text(text, encoding):
    if encoding == "utf-8" and text.startswith("\ufeff"):
        text = text.lstrip("\ufeff")  # a mark of its own
    if "\x1b$" not in text:
        assert decode(text.encode(encoding))[0] == text
