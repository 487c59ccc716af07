"""Notes a second as they are sorted every day: all lines at once, one at a time, and the loop one would write first.

    .venv/bin/python benchmarks/sorting.py outputs/RUN [--notes 200] [--rounds 5]
    .venv/bin/python benchmarks/sorting.py outputs/RUN --many 10000

The first two are one real process, `onelap sort -`, whose model is loaded; a file is sorted in the way of many lines at
once. The naive loop generates an answer for each note with the same adapter, and parses it. The three take turns.
`--many` sorts so many notes in one command instead, and prints its memory as it goes.
"""

from onelap.machine import process

process.prepare()  # before the libraries are imported

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from onelap.arms.endpoint import generate, parse_answer
from onelap.daily.sort import Sorter
from onelap.lap.run import Run

LOOKS = 10  # at the memory of a long command


def texts_of(run: Run, count: int) -> list[str]:
    """The run's notes, shuffled, and in other orders of their words where more are wanted."""
    rng = random.Random(0)
    notes = [text for part in ("train", "validation", "test") for text in run.read_part(part)["text"]]
    texts = rng.sample(notes, len(notes))
    while len(texts) < count:
        words = rng.choice(notes).split(" ")
        texts.append(" ".join(rng.sample(words, len(words))))
    return texts[:count]


def lines_of(texts: list[str]) -> list[str]:
    """As a program sends them."""
    return [json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts)]


def sorting(run: Run, *paths: str) -> subprocess.Popen:
    """`onelap sort` as a process."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("onelap"), "sort", *paths, "--run", run.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def all_at_once(process: subprocess.Popen, texts: list[str]) -> float:
    """Seconds from the first line that is written to the last answer."""
    began = time.perf_counter()
    writer = threading.Thread(target=write, args=(process, lines_of(texts)))
    writer.start()
    answers = [json.loads(process.stdout.readline()) for _ in texts]
    seconds = time.perf_counter() - began
    writer.join()
    assert [answer["id"] for answer in answers] == list(range(len(texts)))
    return seconds


def write(process: subprocess.Popen, lines: list[str]) -> None:
    """Send lines to it."""
    process.stdin.writelines(lines)
    process.stdin.flush()


def one_line_at_a_time(process: subprocess.Popen, texts: list[str]) -> list[float]:
    """Seconds from each line to its answer."""
    taken = []
    for line in lines_of(texts):
        began = time.perf_counter()
        write(process, [line])
        json.loads(process.stdout.readline())
        taken.append(time.perf_counter() - began)
    return taken


def naive(sorter: Sorter, texts: list[str]) -> float:
    """Seconds of a loop that generates an answer for each note."""
    began = time.perf_counter()
    for text in texts:
        answers, _ = generate(sorter.scorer.model, sorter.scorer.prompt, [text])
        parse_answer(answers[0], list(sorter.scorer.prompt.answers))
    return time.perf_counter() - began


def compare(run: Run, count: int, rounds: int) -> None:
    """Print notes a second of the three ways, with the range over the rounds, and their ratios."""
    texts, sorter = texts_of(run, count), Sorter.load(run)
    rates = {"all lines at once": [], "co-process, one line at a time": [], "generate(), one note at a time": []}
    lines = []
    with sorting(run, "-") as process:
        one_line_at_a_time(process, texts[:3])  # loads the model
        for _ in range(rounds):
            lines += (taken := one_line_at_a_time(process, texts))
            seconds = [all_at_once(process, texts), sum(taken), naive(sorter, texts)]
            for way, one in zip(rates, seconds, strict=True):
                rates[way].append(count / one)
        process.stdin.close()
    for way, found in rates.items():
        print(f"{way}: {_told(found)} notes a second")
    *ours, slowest = rates
    for way in ours:
        ratios = [a / b for a, b in zip(rates[way], rates[slowest], strict=True)]
        print(f"{way} against {slowest}: ratio {_told(ratios)}")
    hundredths = statistics.quantiles(lines, n=100)
    print(f"a line and its answer: median {1000 * hundredths[49]:.0f} ms, 95 % within {1000 * hundredths[94]:.0f} ms")


def many(run: Run, count: int) -> None:
    """Print the memory of one `onelap sort` at every tenth of so many notes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "notes.jsonl"
        file.write_text("".join(lines_of(texts_of(run, count))), encoding="utf-8")
        with sorting(run, str(file)) as process:
            watched = psutil.Process(process.pid)
            began = None
            for number, _ in enumerate(process.stdout, start=1):
                began = began or time.perf_counter()
                if number % (count // LOOKS) == 0:
                    seconds, size = time.perf_counter() - began, watched.memory_info().rss / 1e9
                    print(f"{number} notes, {number / seconds:.1f} a second, {size:.3f} GB", flush=True)


def _told(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """The three ways in turn, or many notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--notes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=0, help="sort so many notes in one command")
    options = parser.parse_args()
    run = Run(options.run)
    if options.many:
        many(run, options.many)
    else:
        compare(run, options.notes, options.rounds)


if __name__ == "__main__":
    main()
