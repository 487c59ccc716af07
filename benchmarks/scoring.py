"""Scoring the kinds in one forward pass against generating an answer and parsing it; same model, same notes, one run.

    .venv/bin/python benchmarks/scoring.py [--run outputs/RUN] [--notes 104] [--rounds 5]

The ways take turns, so that a noisy machine is noisy for all of them.
"""

from onelap.machine import process

process.prepare()  # before the libraries are imported

import argparse
import statistics
import time
from pathlib import Path

import yaml

from onelap.arms.base import load_adapter, load_base, load_tokenizer, locate_base
from onelap.arms.endpoint import generate, parse_answer
from onelap.arms.prompts import MEANINGS, build_prompt
from onelap.arms.scoring import score
from onelap.machine.precision import choose_precision
from onelap.notes.fields import Fields
from onelap.notes.vault import locate_notes, read_notes

BATCH = 16


def measure(model, prompt, texts: list[str], rounds: int) -> None:
    """Print notes a second of the three ways, their ratios, and how often an answer could not be parsed."""
    ways = {
        f"score, batches of {BATCH}": lambda: score(model, prompt, texts, BATCH),
        "generate, one note at a time": lambda: generate(model, prompt, texts, 1),
        f"generate, batches of {BATCH}": lambda: generate(model, prompt, texts, BATCH),
    }
    seconds = {name: [] for name in ways}
    *_, (answers, _) = [way() for way in ways.values()]  # warm; the answers are the same every time
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ours, *others = seconds
    for name, taken in seconds.items():
        rates = sorted(len(texts) / each for each in taken)
        print(f"  {name}: {statistics.median(rates):.1f} notes a second ({rates[0]:.1f} to {rates[-1]:.1f})")
    for name in others:
        ratios = sorted(b / a for a, b in zip(seconds[ours], seconds[name], strict=True))
        middle = statistics.median(ratios)
        print(f"  against {name}: ratio {middle:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f} in {rounds} rounds)")
    unparsed = sum(not parse_answer(answer, list(prompt.answers)) for answer in answers)
    print(f"  answers that could not be parsed: {unparsed} of {len(texts)}", flush=True)


def main() -> None:
    """The untuned base with meanings, with examples too, and the adapter if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run whose base and adapter are measured too")
    parser.add_argument("--notes", type=int, default=104)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    kinds = sorted(MEANINGS)
    notes = read_notes(locate_notes("data/sample_notes"), Fields(tuple(kinds))).notes.sample(frac=1, random_state=0)
    texts = notes["text"][: options.notes].tolist()
    examples = notes[options.notes :].groupby("kind").head(1)[["text", "kind"]].values.tolist()
    parameters = {"base_model": "data/embedded_base", "max_length": 224}
    if options.run:
        parameters = yaml.safe_load((options.run / "params.yaml").read_text(encoding="utf-8"))
    folder = locate_base(parameters["base_model"])
    tokenizer, max_length = load_tokenizer(folder), parameters["max_length"]
    model = load_base(folder, choose_precision())
    for name, meanings, shown in (
        ("base, meanings in the prompt", MEANINGS, []),
        ("base, meanings and an example of each kind", MEANINGS, examples),
        ("qlora", {}, []),
    ):
        if name == "qlora":
            if not options.run:
                break
            model = load_adapter(model, options.run / "adapter")
        prompt = build_prompt(tokenizer, kinds, max_length, meanings, shown)
        print(f"{name}: {len(prompt.before_ids)} tokens before each note")
        measure(model, prompt, texts, options.rounds)


if __name__ == "__main__":
    main()
