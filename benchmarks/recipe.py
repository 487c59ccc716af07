"""The published QLoRA recipe, literally, against ours: same base, notes, effective batch and number of steps.

    .venv/bin/python benchmarks/recipe.py                                        # CPU, embedded base
    .venv/bin/python benchmarks/recipe.py --shape Qwen/Qwen2.5-3B-Instruct --max-length 512 --cap-gb 8

Published: one note a forward pass, eight accumulated, gradient checkpointing, `prepare_model_for_kbit_training`,
dropout in LoRA, mixed precision off, TRL's defaults for all else. Ours: `onelap.qlora.training`. Each runs in its own
process, in turns, so that a noisy machine is noisy for both. `--shape` builds a model of that shape with random
weights, since time and memory do not depend on what the weights are; `--cap-gb` plays a smaller card.
The loss is the same for both: mean nats of the true kind among the kinds, on notes that neither has learnt.
"""

from onelap.machine import process

process.prepare()  # before the libraries are imported

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, LlamaConfig, PrinterCallback, Qwen2Config, TrainerCallback

from onelap import PROJECT
from onelap.arms.base import load_base, load_tokenizer
from onelap.arms.prompts import MEANINGS, Prompt, build_prompt
from onelap.arms.scoring import score
from onelap.machine.memory import peak_memory_gb
from onelap.machine.precision import Precision, choose_precision
from onelap.notes.fields import Fields
from onelap.notes.vault import read_notes
from onelap.qlora.plan import SHAPES, Shape, matmul_rate
from onelap.qlora.recipe import Recipe
from onelap.qlora.training import TARGETS, prepare_trainer

EMBEDDED = PROJECT / "data" / "embedded_base"
BATCH = 8  # notes an optimizer step, as published
HELD_OUT = 40
HEAD_SIZE = 128  # of Qwen2.5 and Llama-3.1 alike
RANK, ALPHA, LEARNING_RATE = 16, 32, 2e-4


class Clock(TrainerCallback):
    """Records when each step ended; the first one warms up."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **_):
        """Note the time after the optimizer."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def published(base: Path, precision: Precision, prompt: Prompt, notes: pd.DataFrame, folder: Path, _):
    """A trainer as in the published attempt."""
    from trl import SFTConfig, SFTTrainer

    rows = []
    for text, kind in notes[["text", "kind"]].itertuples(index=False):
        asked, answer = prompt.encode(text), prompt.answers[kind]
        rows.append({"input_ids": asked + answer, "completion_mask": [0] * len(asked) + [1] * len(answer)})
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=BATCH,
        gradient_checkpointing=True,
        bf16=False,
        fp16=False,
        use_cpu=precision.device == "cpu",
        max_length=None,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.05, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = prepare_model_for_kbit_training(load_base(base, precision))
    trainer = SFTTrainer(
        model, arguments, train_dataset=Dataset.from_list(rows), processing_class=prompt.tokenizer, peft_config=lora
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def ours(base: Path, precision: Precision, prompt: Prompt, notes: pd.DataFrame, folder: Path, options):
    """A trainer as in 03_train."""
    recipe = Recipe(
        epochs=1.0,
        learning_rate=LEARNING_RATE,
        effective_batch=BATCH,
        micro_batch_tokens=options.micro_batch_tokens,
        lora_rank=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        gradient_checkpointing=options.checkpointing == "yes",
        evaluations=1,
        seed=0,
        checkpoint_minutes=1000.0,
    )
    return prepare_trainer(base, prompt, precision, recipe, notes, notes[:BATCH], folder)


RECIPES: dict[str, Callable] = {"published": published, "ours": ours}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One recipe in this process."""
    precision = choose_precision(options.precision)
    if options.cap_gb and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.cap_gb * 1e9 / total)
    notes, held_out = sample(options.steps)
    prompt = build_prompt(load_tokenizer(options.base), sorted(MEANINGS), options.max_length)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        build = RECIPES[options.recipe]
        trainer = build(options.base, precision, prompt, notes, Path(folder), options)
        trainer.add_callback(clock)
        trainer.train()
    peak = peak_memory_gb()
    seconds = clock.ends[-1] - clock.ends[0]
    tokens = sum(len(prompt.encode(text)) for text in notes["text"]) * (1 - BATCH / len(notes))
    probabilities, _ = score(trainer.model, prompt, held_out["text"].tolist(), BATCH)
    given = [list(prompt.answers).index(kind) for kind in held_out["kind"]]
    useful = 4 * Shape.read(options.base).linear * tokens / seconds  # operations; see Forecast.cost
    return {
        "notes a second": BATCH * (len(clock.ends) - 1) / seconds,
        "GB at the peak": peak,
        "share of the matmul rate": useful / matmul_rate(precision),
        "loss": float(-np.log(probabilities[range(len(given)), given]).mean()),
        "rungs": len(getattr(trainer, "rungs", [])),
    }


def sample(steps: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Notes to learn, as many as the steps take, and notes to ask about."""
    notes = read_notes(PROJECT / "data/sample_notes", Fields(tuple(sorted(MEANINGS)))).notes
    notes = notes.sample(frac=1, random_state=0)
    learnt, count = notes[HELD_OUT:], steps * BATCH
    return learnt.sample(count, random_state=0, replace=count > len(learnt)), notes[:HELD_OUT]


def build_random(name: str, folder: Path) -> None:
    """A model folder of this shape with random 16-bit weights and the embedded base's tokenizer."""
    shape = SHAPES[name]
    config = (Qwen2Config if "Qwen" in name else LlamaConfig)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD_SIZE,
        num_key_value_heads=shape.key_value // HEAD_SIZE,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    load_tokenizer(EMBEDDED).save_pretrained(folder)


def main() -> None:
    """Both recipes in turns; the last line is the ratio of their speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=EMBEDDED, help="a model folder")
    parser.add_argument("--shape", choices=list(SHAPES), help="instead: random weights in this model's shape")
    parser.add_argument("--max-length", type=int, default=224, help="tokens of prompt and answer")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, help="tokens a forward pass of ours")
    parser.add_argument("--checkpointing", choices=["yes", "no"], default="no", help="of ours; published always has it")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cap-gb", type=float, help="memory of a card that is played")
    parser.add_argument("--precision", default="auto", help="auto, bf16, fp16 or fp32; fp16 plays a Turing card")
    parser.add_argument("--recipe", choices=list(RECIPES), help="only this one, in this process, as JSON")
    options = parser.parse_args()
    if options.recipe:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.shape:
            build_random(options.shape, Path(folder))
            options.base = Path(folder)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Print what each recipe did, round by round, then medians and ranges."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items() if value is not None]
    given = [argument for argument in given if not argument.startswith(("--shape", "--rounds", "--recipe"))]
    found: dict[str, list[dict]] = {name: [] for name in RECIPES}
    for _ in range(options.rounds):
        for name in RECIPES:
            command = [sys.executable, __file__, *given, "--recipe", name]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
            if done.returncode:
                raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, {what: round(value, 3) for what, value in found[name][-1].items()}, flush=True)
    for name, rounds in found.items():
        told = [f"{what} {_spread([one[what] for one in rounds])}" for what in rounds[0]]
        print(f"{name}: {', '.join(told)}")
    pairs = zip(found["published"], found["ours"], strict=True)
    ratios = [b["notes a second"] / a["notes a second"] for a, b in pairs]
    print(f"ratios {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"ratio {statistics.median(ratios):.1f}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
