"""How often a text in an older encoding is read right, listed as not read, or read as another text.

    .venv/bin/python benchmarks/encodings.py /usr/share/locale --skip 800

The sentences are translations of the programs on a Linux machine (`*/LC_MESSAGES/*.mo`): up to 800 for each language
and encoding, of 20 to 400 characters, at least three of them beyond ASCII. The constants of `onelap.machine.encoding`
were chosen on the first 800, so that `--skip 800` takes others. The table in docs/LOG.md comes from here.
"""

import argparse
import gettext
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

from onelap.machine.encoding import Unreadable, decode

ENCODINGS = {
    **{"ru": "cp1251 koi8_r cp866", "el": "cp1253", "tr": "cp1254", "he": "cp1255", "th": "cp874"},
    **dict.fromkeys(["pl", "cs", "hu"], "cp1250 iso8859_2"),
    **{"zh_CN": "gbk", "zh_TW": "big5", "ko": "euc_kr", "ja": "cp932 euc_jp"},
    **dict.fromkeys(["de", "fr", "es", "sv", "it"], "cp1252 mac_roman"),
}
SAME = str.maketrans("〜−‖—¢£¬", "～－∥―￠￡￢")  # pairs that cp932 and Shift_JIS decode differently


def sentences(locale: Path) -> list[str]:
    """List the translations below a folder of one language."""
    found = set()
    for path in locale.glob("LC_MESSAGES/*.mo"):
        with suppress(UnicodeDecodeError), path.open("rb") as file:
            texts = gettext.GNUTranslations(file)._catalog.values()
            found.update(text.strip() for text in texts if isinstance(text, str))
    return sorted(text for text in found if 20 <= len(text) <= 400 and sum(map(str.isascii, text)) <= len(text) - 3)


def outcome(text: str, encoding: str) -> str:
    """Tell what becomes of a text in an encoding."""
    try:
        decoded, _ = decode(text.encode(encoding))
    except Unreadable:
        return "listed"
    return "right" if decoded.translate(SAME) == text.translate(SAME) else "another text"


def main() -> None:
    """Print a row for each language and encoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("locales", type=Path, help="a folder with a folder for each language")
    parser.add_argument("--skip", type=int, default=0, help="sentences left out of each language and encoding")
    options = parser.parse_args()
    print("| language | encoding | sentences | right | listed | another text |\n|---|---|---|---|---|---|")
    for language, encodings in ENCODINGS.items():
        for encoding in encodings.split():
            texts = [text for text in sentences(options.locales / language) if text == round_trip(text, encoding)]
            random.Random(f"{language}{encoding}").shuffle(texts)
            texts = texts[options.skip : options.skip + 800]
            counts = Counter(outcome(text, encoding) for text in texts)
            shares = (
                f"{100 * counts[what] / max(1, len(texts)):.1f} %" for what in ("right", "listed", "another text")
            )
            print(f"| {language} | {encoding} | {len(texts)} | {' | '.join(shares)} |", flush=True)


def round_trip(text: str, encoding: str) -> str:
    """Return what an encoding keeps of a text."""
    return text.encode(encoding, "replace").decode(encoding)


if __name__ == "__main__":
    main()
