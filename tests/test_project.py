"""Style of the code, and what is promised about the sample notes and the embedded base."""

import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict

import pytest

from onelap import PROJECT
from onelap.notes.head import split_head


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_code_and_notebooks_pass_ruff(command):
    result = python("-m", "ruff", *command, ".")
    assert result.returncode == 0, result.stdout


# Sample notes


def words(text: str) -> list[str]:
    """Split a text into words, and Japanese, which is written without spaces, into characters."""
    return re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|[a-z0-9']+", text.lower())


@pytest.fixture(scope="module")
def samples():
    paths = sorted((PROJECT / "data/sample_notes").glob("*/*.md"))
    notes = {path: split_head(path.read_text(encoding="utf-8")) for path in paths}
    return {path.relative_to(PROJECT).as_posix(): head | {"content": text} for path, (head, text, _) in notes.items()}


def test_sample_notes_are_many_mixed_and_skewed(samples):
    assert len(samples) >= 400
    for path, note in samples.items():
        assert {"kind", "source", "created"} <= set(note), path
        assert note["source"] == path.split("/")[-2]
    kinds = Counter(note["kind"] for note in samples.values())
    assert set(kinds) == {"knowledge", "none", "decision", "lesson", "value"}
    assert kinds.most_common(1)[0][0] == "knowledge"
    assert {kind for kind, _ in kinds.most_common()[-2:]} == {"lesson", "value"}
    by_source = defaultdict(set)
    for note in samples.values():
        by_source[note["source"]].add(note["kind"])
    assert len(by_source) >= 24
    assert min(map(len, by_source.values())) >= 4
    japanese = sum(bool(re.search(r"[\u3040-\u30ff]", note["content"])) for note in samples.values())
    assert 0.15 < japanese / len(samples) < 0.25


def test_sample_notes_do_not_share_a_third_of_their_phrases(samples):
    phrases = {}
    for path, note in samples.items():
        tokens = words(note["content"])
        phrases[path] = {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}
    holders = defaultdict(list)
    for path, sequences in phrases.items():
        for sequence in sequences:
            holders[sequence].append(path)
    shared = Counter()
    for paths in holders.values():
        shared.update((a, b) for position, a in enumerate(paths) for b in paths[position + 1 :])
    for (a, b), count in shared.items():
        assert count <= 0.3 * min(len(phrases[a]), len(phrases[b])), (a, b)


def test_sample_notes_do_not_announce_their_kind(samples):
    for path, note in samples.items():
        kind = note["kind"]
        announced = rf"(?im)^\W*(#\s*)?({kind}s?|design decision|lessons? learn(ed|t)|til)\W*(:|$)|#{kind}\b"
        assert not re.search(announced, note["content"]), path
        assert kind not in path.split("/")[-1], path


def test_corpus_of_the_base_has_no_passage_of_a_sample_note(samples):
    """A passage is 12 words or Japanese characters long."""
    corpus = set()
    for path in (PROJECT / "data/base_corpus").glob("*.txt"):
        tokens = words(path.read_text(encoding="utf-8"))
        corpus.update(tuple(tokens[i : i + 12]) for i in range(len(tokens) - 11))
    assert len(corpus) > 100_000
    for path, note in samples.items():
        tokens = words(note["content"])
        assert not corpus & {tuple(tokens[i : i + 12]) for i in range(len(tokens) - 11)}, path


def test_tokenizer_of_the_base_splits_text_as_its_file_says(samples):
    """AutoTokenizer picks a class by architecture, with splitting rules of its own."""
    from tokenizers import Tokenizer

    from onelap.arms.base import load_tokenizer

    folder = PROJECT / "data/embedded_base"
    loaded, stored = load_tokenizer(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for path, note in samples.items():
        ids = loaded(note["content"], add_special_tokens=False)["input_ids"]
        assert ids == stored.encode(note["content"], add_special_tokens=False).ids, path
        assert loaded.decode(ids) == unicodedata.normalize("NFC", note["content"]), path
