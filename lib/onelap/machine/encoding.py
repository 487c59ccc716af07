"""The encoding of a text file, and its text; the decoders are Python's.

A byte-order mark decides, then the user, ISO-2022-JP's escapes, and UTF-8 if most of the text is in it. chardet ranks
other encodings. Where it errs, in short texts and in katakana, habits of writing help: a word has one alphabet and no
capital or sign after a small letter, Japanese has kana, Western Europe has few letters more (docs/LOG.md).
"""

import codecs
import re
from pathlib import Path

import chardet

DAMAGED = 0.1  # share of its characters beyond ASCII that may be broken in a note
MAX_BYTES, MAX_FILE = 1_000_000, 50_000_000  # of a note, and with its pictures; what is longer is a book or a dump
BROKEN = "\udcff"  # stands for what cannot be decoded; Python's surrogateescape refuses some of UTF-16
codecs.register_error("onelap.broken", lambda error: (BROKEN, error.end))
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_WINDOWS = "cp1252 cp932 euc_jis_2004 gb18030 big5hkscs cp949 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 cp874"
_FAMILIES = {name: [name] for name in f"{_WINDOWS} iso8859-2 iso8859-5 koi8-r koi8-u cp866 mac-roman".split()}
_FAMILIES |= {"cp932": ["shift_jis", "cp932"], "euc_jis_2004": ["euc_jp"]}  # the keys are chardet's names
_MIN_SCORE, _MARGIN = 0.05, 1.5  # the likeliest text has this score, and that many times the score of the next one
_PARTS, _JUDGED = 16, 200  # rows are also judged in that many parts, as a broken one spoils its part; lines of each
_NO_TEXT = r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\udcff─-▟\ue000-\uf8ff]"  # controls, boxes, private use
_KANA = "(?![せぞぬばぱ])[ぁ-ヺー]"  # those would be ㅋㅎㅜㅠㅡ of Korean chats
_FOREIGN = "\u0370-\u052f\u0590-\u0eff"  # letters from Greek to Thai
_ODD = rf"[A-Za-z][{_FOREIGN}]|[{_FOREIGN}](?=[A-Za-z])|(?<!\w)[{_FOREIGN}]{{1,2}}(?!\w)|[ˇ˘-˝¯ÿ◊]|Ł(?=\d)"
_ODD += r"|[a-zß-ÿ](?=[À-ÞŒŠŽŸ‚„†‡ˆ])|[ª²³¹º¼-¾](?=[a-z])|[A-Za-zÀ-ÿ][^\w\s’×·–—…\x00-\x7f](?=[A-Za-zÀ-ÿ])"
_ODD += "|[a-z][一-鿿](?=[a-z])|[｡-ﾟ]"
_NOT_WESTERN = "[^\x00-\x7f\xa0-£¥§©-«®°-³µ·¹-ÏÑ-Üß-ïñ-üœ‘’‚“”„‹›–—…•€™]|[À-ÜŒ]{2}|Ç(?![a-z])|—n\\b|œ(?![ui])|õ(?!e)"


class Unreadable(Exception):
    """A file that cannot be read as text; the message is the reason."""


def read_text(path: Path, encoding: str = "", max_bytes: int | None = None, rows: bool = False) -> tuple[str, str]:
    """Read (text, encoding), with line ends as `\\n`. Raises Unreadable as `decode`, and for more than `max_bytes`."""
    try:
        if max_bytes and path.stat().st_size > max_bytes:
            raise Unreadable(f"over {max_bytes / 1e6:.0f} MB")
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    text, encoding = decode(data, encoding, rows)
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def decode(data: bytes, encoding: str = "", rows: bool = False) -> tuple[str, str]:
    """Decode what a text editor wrote to (text, encoding): the one that the user gave, or the likeliest.

    In `rows`, NUL stays, and U+DCFF is where a character is broken. Raises Unreadable for a note with more than a few
    of these, or any in the given encoding, and where no encoding is likely enough.
    """
    text, name = _read(data, _family(data, encoding, rows))
    if rows and not encoding and not name.startswith(("utf", "iso2022")):  # a row in UTF-8 among others is read too
        text = "\n".join(_read(line, ["utf-8", name])[0] for line in data.split(b"\n"))
    if rows or not (BROKEN in text or "\x00" in text):
        return text, name
    if "\x00" in text:
        raise Unreadable("binary: holds NUL")
    broken = text.count(BROKEN)
    if encoding or broken > DAMAGED * sum(not character.isascii() for character in text):
        raise Unreadable(f"binary, or not in {name}: convert it to UTF-8, or name what it is in with -p encoding=…")
    return text.replace(BROKEN, "\ufffd"), f"{name}, {broken} characters broken"


def _family(data: bytes, encoding: str, rows: bool) -> list[str]:
    """The encodings to try: those that marks, the user, escapes or NUL bytes point to, else those of most lines."""
    text, _ = _read(data, ["utf-8"])
    utf8 = not data.isascii() and BROKEN not in text  # which is not an accident, whatever the user says
    if named := next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8" if utf8 else encoding):
        return [named]
    if re.search(rb"\x1b(?:\$[@B]|\([IJ])", data):
        return ["iso2022_jp", "iso2022_jp_ext"]  # the latter has half-width katakana
    zeros = data[0::2].count(0), data[1::2].count(0)
    if len(data) % 2 == 0 and max(zeros) > 0.3 * len(data) / 2 and min(zeros) == 0:
        return ["utf-16-be" if zeros[0] else "utf-16-le"]  # Western text without a mark
    units = [unit for unit in (text.split("\n") if rows else text) if not unit.isascii()] if BROKEN in text else []
    if sum(BROKEN in unit for unit in units) <= (0.5 if rows else DAMAGED) * len(units):
        return ["utf-8"]
    lines = [line for line in data.replace(b"\x00", b" ").split(b"\n") if BROKEN in _read(line, ["utf-8"])[0]]
    families = _likeliest(lines)
    if rows and len(families) > 1:
        parts = [_likeliest(lines[start::_PARTS]) for start in range(min(_PARTS, len(lines)))]
        families = max([families, *parts], key=parts.count)
    if len(families) > 1:
        names = " or ".join(family[-1] for family in families if family) or "no known encoding"
        raise Unreadable(f"not UTF-8, but binary or in {names}: name it with -p encoding=…")
    return families[0]


def _read(data: bytes, encodings: list[str]) -> tuple[str, str]:
    for name in encodings:
        text = data.decode(name, "onelap.broken")
        if BROKEN not in text:
            break
    return text, name


def _likeliest(lines: list[bytes]) -> list[list[str]]:
    """List the encodings that the lines are likeliest in: only one family if it is much likelier than any other."""
    data, readings = b"\n".join(lines[:_JUDGED]), {}
    for name, family in _FAMILIES.items():
        readings.setdefault(_read(data, family)[0], []).append(name)
    ranks = chardet.detect_all(data, ignore_threshold=True, compat_names=False, include_encodings=_FAMILIES)
    confidence = {rank["encoding"]: rank["confidence"] for rank in ranks}
    ranking = [_score(text, names, confidence) for text, names in readings.items() if not re.search(_NO_TEXT, text)]
    (score, western, family), (next_score, _, rival) = sorted([*ranking, *[(0, False, [])] * 2], reverse=True)[:2]
    return [family] if western or score >= max(_MIN_SCORE, _MARGIN * next_score) else [family, rival]


def _score(text: str, names: list[str], confidence: dict[str, float]) -> tuple[float, bool, list[str]]:
    """Correct chardet's confidence by habits of writing: (score, whether it looks Western European, family)."""
    family, likely = _FAMILIES[names[0]], max(confidence.get(name, 0) for name in names)
    likely *= {"cp932": 4, "cp1255": 1.3, "cp949": 0.6}.get(names[0], 1)  # by trial, like 1.3 below: docs/LOG.md
    beyond, kana = (len(re.findall(characters, text)) for characters in (r"[^\x00-\x7f]", _KANA))
    odd = len(re.findall(_ODD, text)) if likely else 0
    likely *= max(0, 1 - odd / beyond) ** 2
    if names[0] in ("cp932", "euc_jis_2004"):
        return likely + (kana / beyond) ** 2, False, family
    western = names[0] == "cp1252" and odd + len(re.findall(_NOT_WESTERN, text)) <= 0.1 * beyond  # a name may differ
    return (1.3 if western else 1) * likely * (1 - kana / beyond) ** 2, western, family
