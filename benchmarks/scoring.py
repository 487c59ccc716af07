"""Scoring the kinds in one forward pass against generating an answer and parsing it; same model, same notes, one run.

    .venv/bin/python benchmarks/scoring.py [--run outputs/RUN] [--notes 104] [--rounds 5]

Without `--run` the untuned embedded base is measured, else that run's base with its adapter. The
three ways take turns, so that a noisy machine is noisy for all of them.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
import yaml

from onelap.endpoint import parse_answer
from onelap.models import load_adapter, load_base, load_tokenizer, locate_base
from onelap.notes import Fields, locate_notes, read_notes
from onelap.precision import choose_precision
from onelap.prompts import MEANINGS, build_prompt
from onelap.scoring import score

ANSWER_TOKENS = 8
BATCH = 16


@torch.no_grad()
def generate(model, prompt, texts: list[str], batch: int) -> list[str]:
    """Answers as a chat program would get them: greedy, some tokens, decoded."""
    answers = []
    for first in range(0, len(texts), batch):
        encoded = [prompt.encode(text) for text in texts[first : first + batch]]
        padded = prompt.tokenizer.pad({"input_ids": encoded}, return_tensors="pt").to(model.device)
        out = model.generate(**padded, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answers += prompt.tokenizer.batch_decode(out[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def main() -> None:
    """Print notes a second, their ratios, and how often an answer could not be parsed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--notes", type=int, default=104)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    kinds = sorted(MEANINGS)
    notes = read_notes(locate_notes("data/sample_notes"), Fields(tuple(kinds))).notes
    texts = notes["text"].sample(options.notes, random_state=0).tolist()
    base, adapter, max_length = "data/embedded_base", None, 224
    if options.run:
        parameters = yaml.safe_load((options.run / "params.yaml").read_text(encoding="utf-8"))
        base, adapter, max_length = parameters["base_model"], options.run / "adapter", parameters["max_length"]
    folder, precision = locate_base(base), choose_precision()
    model = load_base(folder, precision)
    model = load_adapter(model, adapter) if adapter else model
    prompt = build_prompt(load_tokenizer(folder), kinds, max_length)

    ways = {
        f"score, batches of {BATCH}": lambda: score(model, prompt, texts, BATCH),
        "generate, one note at a time": lambda: generate(model, prompt, texts, 1),
        f"generate, batches of {BATCH}": lambda: generate(model, prompt, texts, BATCH),
    }
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)

    unparsed = sum(not parse_answer(answer, kinds) for answer in generate(model, prompt, texts, BATCH))
    ours, *others = seconds
    for name, taken in seconds.items():
        rates = sorted(len(texts) / each for each in taken)
        print(f"{name}: {statistics.median(rates):.1f} notes a second ({rates[0]:.1f} to {rates[-1]:.1f})")
    print(f"answers that could not be parsed: {unparsed} of {len(texts)}; of scores: none, by construction")
    for name in others:
        ratios = sorted(b / a for a, b in zip(seconds[ours], seconds[name], strict=True))
        median = statistics.median(ratios)
        print(f"against {name}: {ratios[0]:.1f} to {ratios[-1]:.1f} in {options.rounds} rounds, ratio {median:.1f}")


if __name__ == "__main__":
    main()
