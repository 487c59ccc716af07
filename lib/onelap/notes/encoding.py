"""The encoding of a text file, and its text; the decoders are Python's.

A byte-order mark decides, then ISO-2022-JP's escapes, then UTF-8 if it is valid. Other files are guessed to be
Shift_JIS, EUC-JP or Windows-1252, by how likely the resulting characters are: charset_normalizer refused or misread
one note in ten (docs/LOG.md).
"""

import codecs
import re
from pathlib import Path

LEGACY = ["shift_jis", "cp932", "euc_jp", "cp1252"]  # cp932: Shift_JIS as Windows extends it
DAMAGED = 0.1  # share of its multi-byte characters that may be broken in UTF-8
MAX_BYTES = 1_000_000  # a note is shorter; a longer file is a book, a log or a dump
_TYPOGRAPHY = set("‘’“”–—…•€£°½¼¾«»©®™§·×²³µ¿¡")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


class Unreadable(Exception):
    """A file that cannot be read as text; the message is the reason."""


def read_text(path: Path, max_bytes: int | None = None) -> tuple[str, str]:
    """Read (text, encoding), with line ends as `\\n`. Raises Unreadable, also for a file over `max_bytes`."""
    try:
        if max_bytes and path.stat().st_size > max_bytes:
            raise Unreadable(f"over {max_bytes / 1e6:.0f} MB")
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    text, encoding = decode(data)
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def decode(data: bytes) -> tuple[str, str]:
    """Decode what a text editor wrote to (text, encoding). Raises Unreadable for bytes that are not text."""
    for encoding in _certain(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" in text:
            raise Unreadable("binary: holds NUL")
        return text, encoding
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in data:
        raise Unreadable("binary: holds NUL" if b"\x00" in data else "binary, or in no known encoding")
    damaged = data.decode("utf-8", "replace")
    broken, multibyte = damaged.count("\ufffd"), sum(not character.isascii() for character in damaged)
    if broken <= DAMAGED * multibyte:
        return damaged, f"utf-8, {broken} characters broken"
    return _likeliest(data)


def _certain(data: bytes) -> list[str]:
    """The encodings to try: those that marks, escapes or NUL bytes point to, else UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ["utf-16"]
    if data.startswith(codecs.BOM_UTF8):
        return ["utf-8-sig"]
    if re.search(rb"\x1b(?:\$[@B]|\([IJ])", data):
        return ["iso2022_jp", "iso2022_jp_ext"]  # the latter has half-width katakana
    zeros = data[0::2].count(0), data[1::2].count(0)
    if len(data) % 2 == 0 and max(zeros) > 0.3 * len(data) / 2 and min(zeros) == 0:
        return ["utf-16-be" if zeros[0] else "utf-16-le"]  # Western text without a mark
    return ["utf-8"]


def _likeliest(data: bytes) -> tuple[str, str]:
    readings = []
    for encoding in LEGACY:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not _CONTROL.search(text):
            readings.append((_plausibility(text), text, encoding))
    if not readings:
        raise Unreadable("binary, or in no known encoding")
    _, text, encoding = max(readings, key=lambda reading: reading[0])  # the first of equals
    return text, encoding


def _plausibility(text: str) -> float:
    """Estimate how likely the characters beyond ASCII are in a note: their mean, 0 to 1."""
    beyond = [index for index, character in enumerate(text) if not character.isascii()]
    return sum(_likely(text, index) for index in beyond) / max(1, len(beyond))


def _likely(text: str, index: int) -> float:
    character, around = text[index], text[max(0, index - 1) : index] + text[index + 1 : index + 2]
    alone = around.isascii()
    if "ぁ" <= character <= "ヺ" or character in "、。「」（）：！？ー":
        return 1.0
    if "一" <= character <= "\u9fff":  # "it’s" of Windows-1252 is "it痴" in Shift_JIS: a kanji among letters
        common = character.encode("cp932", "replace")[0] <= 0x97  # JIS level 1, the 2,965 in daily use
        return 0.1 if alone else 0.9 if common else 0.5
    if "\uff61" <= character <= "\uff9f":  # half-width katakana, which most bytes of EUC-JP would be
        return 0.1 if alone else 0.5
    if character in _TYPOGRAPHY:
        return 0.75
    if "À" <= character <= "ÿ":
        return 0.8 if any("a" <= letter <= "z" for letter in around) else 0.3
    return 0.35
