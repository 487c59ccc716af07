"""What a file is encoded in: read right, or refused with the fix; what is broken in a table costs one row."""

import codecs
import re
from pathlib import Path

import chardet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from onelap import PROJECT
from onelap.machine.encoding import BROKEN, MAX_BYTES, MAX_FILE, Unreadable, decode, read_text

RUSSIAN = "Решил: с понедельника встаю в шесть и полчаса читаю до работы.\nБатарейки в термометре садятся за зиму."
POLISH = "Postanowiłem wstawać o szóstej.\nZbyt długo czekałem z podlewaniem, więc ogórki zwiędły w środę."
CZECH = "Kůl musí být hlouběji, jinak ho vítr ohne.\nPříště přivážu keře dřív."
HUNGARIAN = "Legközelebb előbb megkérdezem, hogy működik-e a fűtés, és csak utána fizetek előleget."
SIMPLIFIED = "决定了：以后周末不再看邮件，周一早上一次处理完。\n教训：先备份，再升级。"
TRADITIONAL = "決定了：以後週末不再看郵件，週一早上一次處理完。\n教訓：先備份，再升級。"
KOREAN = "다음부터는 회의 전에 자료를 먼저 읽는다.\n김치는 사흘째가 가장 맛있다."
JAPANESE = "次からは出かける前に火の元を確かめる。\nサーバーのバックアップは毎週金曜の夜に取る。"
GREEK = "Αποφάσισα να ξυπνάω νωρίς και να διαβάζω πριν από τη δουλειά."
TURKISH = "Bundan sonra toplantıdan önce notları okuyacağım, yoksa yarım gün boşa gidiyor."
HEBREW = "החלטתי לקום מוקדם בבוקר ולקרוא חצי שעה לפני העבודה."
ARABIC = "قررت أن أستيقظ مبكرا وأن أقرأ نصف ساعة قبل العمل كل يوم."
THAI = "ครั้งหน้าต้องสำรองข้อมูลก่อนแล้วค่อยอัปเดตเครื่อง"
GERMAN = "Nächstes Mal prüfe ich zuerst die Größe, dann wird bestellt.\nÄrgerlich: drei Bücher zu spät zurückgegeben."
FRENCH = "La prochaine fois, j’appelle d’abord le garçon du café : c’était fermé à Noël."
SPANISH = "Próxima ocasión: pregunto antes de firmar."
ENGLISH = "Yeast is asleep below 4°—so the dough waits; “overnight” means 12 hours, and costs £0."
ROWS = ["朝に水をやる。", "夜は根が冷える。", "支柱は早く立てる。", "種は薄くまく。", "霜は五月まで来る。"]


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (RUSSIAN, "cp866", "cp866"),
        (CZECH, "cp1250", "cp1250"),
        (HUNGARIAN, "cp1250", "cp1250"),
        (SIMPLIFIED, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5hkscs"),
        (KOREAN, "euc_kr", "cp949"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (JAPANESE + "①", "cp932", "cp932"),
        (JAPANESE, "euc_jp", "euc_jp"),
        ("ワイヤレスキーボードクラシック", "euc_jp", "euc_jp"),
        ("歯医者予約変更", "cp932", "shift_jis"),
        ("Вирішила вставати о шостій і читати її листи.", "koi8_u", "koi8-u"),
        ("La règle a changé, l’été aussi a été très sec.", "cp1252", "cp1252"),
        ("오늘 회의 ㅋㅋ 다시는 늦지 말자", "euc_kr", "cp949"),
        ("ㅋㅋㅋ 진짜 웃기다 ㅠㅠ", "euc_kr", "cp949"),
        ("git 分支 衝突", "big5", "big5hkscs"),
        ("Je mehr Öl, desto träger wird’s.", "cp1252", "cp1252"),
        (GREEK, "cp1253", "cp1253"),
        (TURKISH, "cp1254", "cp1254"),
        (HEBREW, "cp1255", "cp1255"),
        (ARABIC, "cp1256", "cp1256"),
        (THAI, "cp874", "cp874"),
        (GERMAN, "cp1252", "cp1252"),
        (FRENCH, "cp1252", "cp1252"),
        (ENGLISH, "cp1252", "cp1252"),
        ("wait—no, it is 3 × £5…", "cp1252", "cp1252"),
        (GERMAN, "mac_roman", "mac-roman"),
        ("P" * 300_000 + "\n" + RUSSIAN, "cp1251", "cp1251"),
    ],
)
def test_note_is_read_in_the_encoding_that_it_was_written_in(text, encoding, named):
    assert decode(text.encode(encoding)) == (text, named)


WRITTEN_IN = {
    RUSSIAN: "cp1251 koi8_r koi8_u cp866 iso8859_5",
    POLISH: "cp1250 iso8859_2",
    CZECH: "cp1250 iso8859_2",
    HUNGARIAN: "cp1250 iso8859_2",
    SIMPLIFIED: "gbk gb18030",
    TRADITIONAL: "big5 cp950 gbk",
    KOREAN: "euc_kr cp949",
    JAPANESE: "cp932 euc_jp iso2022_jp",
    GREEK: "cp1253 iso8859_7",
    TURKISH: "cp1254 iso8859_9",
    HEBREW: "cp1255 iso8859_8",
    ARABIC: "cp1256",
    THAI: "cp874 tis_620",
    GERMAN: "cp1252 latin_1 mac_roman",
    FRENCH: "cp1252 mac_roman",
    SPANISH: "cp1252 mac_roman",
    ENGLISH: "cp1252 mac_roman",
}


def test_every_line_is_read_as_it_was_written_or_refused():
    read = refused = 0
    for text, encodings in WRITTEN_IN.items():
        for encoding in f"{encodings} utf-8 utf-8-sig utf-16".split():
            for piece in (text, *text.split("\n"), text[:16]):
                try:
                    decoded, named = decode(piece.encode(encoding))
                except Unreadable:
                    refused += 1
                    continue
                assert decoded == piece, f"{piece!r} in {encoding} was read as {named}"
                read += 1
    assert read > 5 * refused


def test_sample_notes_are_read_in_the_encodings_of_japan_and_of_the_west():
    notes = [path.read_text(encoding="utf-8") for path in sorted((PROJECT / "data/sample_notes").rglob("*.md"))]
    count = 0
    for note in notes:
        for encoding in ("shift_jis", "euc_jp") if re.search("[ぁ-ヺ]", note) else ("cp1252",):
            if note.isascii() or note != note.encode(encoding, "replace").decode(encoding):
                continue
            assert decode(note.encode(encoding)) == (note, encoding)
            count += 1
    assert count > 200


@pytest.mark.parametrize(
    ("text", "encoding", "names"),
    [
        ("nie można wyłączyć", "iso8859_2", "iso8859-2 or cp1250"),
        ("東京駅", "euc_jp", "gb18030 or euc_jp"),
    ],
)
def test_text_that_may_be_in_several_encodings_is_refused_until_one_is_given(text, encoding, names):
    data = text.encode(encoding)
    with pytest.raises(Unreadable) as failure:
        decode(data)
    assert str(failure.value) == f"not UTF-8, but binary or in {names}: name it with -p encoding=…"
    assert decode(data, encoding) == (text, encoding)


def test_bytes_that_are_no_text_in_any_encoding_are_refused():
    with pytest.raises(Unreadable, match="binary or in no known encoding"):
        decode(bytes(range(1, 256)))
    with pytest.raises(Unreadable, match="binary: holds NUL"):
        decode("café\x00".encode("cp1252"))


def test_given_encoding_is_used_and_a_byte_order_mark_goes_before_it():
    assert decode("Привет".encode("cp866"), "cp866") == ("Привет", "cp866")
    assert decode("é".encode(), "cp1252") == ("é", "utf-8"), "which no other encoding looks like by accident"
    assert decode("Привет".encode("utf-8-sig"), "cp866") == ("Привет", "utf-8-sig")
    assert decode("Привет".encode("utf-16"), "cp866") == ("Привет", "utf-16")


@pytest.mark.parametrize(
    ("text", "encoding"), [("Größe", "utf-8"), ("日本語", "ascii"), (JAPANESE, "utf-8"), ("Größe und Maß", "euc_jp")]
)
def test_note_that_is_not_in_the_given_encoding_is_refused_with_the_fix(text, encoding):
    with pytest.raises(Unreadable, match=f"not in {encoding}: convert it to UTF-8, or name what it is in with -p enc"):
        decode(text.encode("cp1252" if text.startswith("G") else "utf-8") + b"\xff", encoding)


def test_few_broken_characters_are_replaced_and_many_refuse_the_note():
    data = bytearray(JAPANESE.encode("utf-8"))
    data[60] = 0xFF
    assert (
        decode(bytes(data))[1] == decode(codecs.BOM_UTF8 + data)[1].replace("-sig", "") == "utf-8, 2 characters broken"
    )
    with pytest.raises(Unreadable):
        decode(JAPANESE.encode("utf-8").replace(b"\xe3\x81", b"\xe3"))
    wide = JAPANESE.encode("utf-16") + b"\x00"
    assert decode(wide) == (JAPANESE + "\ufffd", "utf-16, 1 characters broken")


def test_row_in_another_encoding_is_marked_and_the_others_are_read():
    data = b"\n".join([*(row.encode("utf-8") for row in ROWS[:4]), ROWS[4].encode("cp932")])
    text, encoding = decode(data, rows=True)
    assert encoding == "utf-8" and text.split("\n")[:4] == ROWS[:4]
    assert BROKEN in text.split("\n")[4]
    with pytest.raises(Unreadable):
        decode(data)


def test_encoding_of_a_table_is_that_of_most_rows_however_long_one_is():
    data = b"\n".join([*(row.encode("utf-8") for row in ROWS), "".join(ROWS * 9).encode("cp932")])
    text, encoding = decode(data, rows=True)
    assert encoding == "utf-8" and text.split("\n")[:5] == ROWS


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_jp"])
def test_broken_row_and_row_in_utf8_cost_a_table_in_an_older_encoding_at_most_themselves(encoding):
    rows = [row.encode(encoding) for row in ROWS]
    text, named = decode(b"\n".join([*rows, ROWS[0].encode("utf-8"), rows[1] + b"\x81"]), rows=True)
    assert text.split("\n")[:6] == [*ROWS, ROWS[0]]
    assert BROKEN in text.split("\n")[6]
    assert named == {"shift_jis": "cp932", "euc_jp": "euc_jp"}[encoding]


def test_nul_and_what_is_not_in_the_given_encoding_stay_in_their_rows():
    assert decode(b'{"text": "a\x00b"}\nc', rows=True) == ('{"text": "a\x00b"}\nc', "utf-8")
    text = "\n".join([*ROWS, "夜\x00は"])
    assert decode(text.encode("euc_jp"), rows=True) == (text, "euc_jp")
    assert decode("Ä\ną".encode("cp1250") + b"\x81", "cp1252", rows=True) == ("Ä\n¹" + BROKEN, "cp1252")


def test_table_in_utf16_is_read_and_half_a_character_costs_its_row():
    text = "text,kind\n朝に水をやる。,lesson\n"
    assert decode(text.encode("utf-16"), rows=True) == (text, "utf-16")
    assert decode("text,kind\nwater early,lesson\n".encode("utf-16-le"), rows=True)[1] == "utf-16-le"
    assert decode(text.encode("utf-16") + b"\x00\xd8", rows=True) == (text + BROKEN, "utf-16")
    assert decode(text.encode("iso2022_jp"), rows=True) == (text, "iso2022_jp")


def test_table_in_no_certain_encoding_is_refused():
    with pytest.raises(Unreadable, match="gb18030 or euc_jp: name it with -p encoding="):
        decode("東京駅\n東京駅".encode("euc_jp"), rows=True)


def test_utf8_is_never_guessed(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("chardet was asked")

    monkeypatch.setattr(chardet, "detect_all", fail)
    broken = JAPANESE.encode("utf-8") + b"\xff"
    assert decode(RUSSIAN.encode("utf-8")) == (RUSSIAN, "utf-8")
    assert decode(broken)[1] == "utf-8, 1 characters broken"
    assert decode(broken, rows=True)[1] == "utf-8"
    with pytest.raises(AssertionError, match="chardet was asked"):
        decode(RUSSIAN.encode("cp1251"))


def test_file_is_read_with_line_ends_of_unix_and_refused_when_too_large(tmp_path):
    path = Path(tmp_path / "note.md")
    path.write_bytes("раз\r\nдва\rтри\n".encode("cp1251"))
    assert read_text(path, "cp1251") == ("раз\nдва\nтри\n", "cp1251")
    assert read_text(path, "ascii", rows=True)[0].count(BROKEN) == 9
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    assert len(read_text(path, max_bytes=MAX_FILE)[0]) == MAX_BYTES + 1
    with pytest.raises(Unreadable, match="over 1 MB"):
        read_text(path, max_bytes=MAX_BYTES)
    with pytest.raises(Unreadable, match="cannot be opened: "):
        read_text(tmp_path / "absent.md")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=some.binary(max_size=80), rows=some.booleans())
def test_any_bytes_are_read_or_refused(data, rows):
    try:
        text, encoding = decode(data, rows=rows)
    except Unreadable as reason:
        assert "\n" not in str(reason)
        return
    if encoding == "utf-8" and not rows:
        assert text.encode("utf-8") == data
