"""A run's adapter merged into its base: a plain Hugging Face folder, for programs that know nothing of this one.

The base that is merged into is the one that the adapter has learnt on: its NF4 weights, unpacked to 16 bits. Into
the original weights, the adapter would bring corrections for errors that are not there (docs/LOG.md has both measured).
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from onelap import UserError
from onelap.arms.base import load_adapter, load_base
from onelap.arms.calibration import Calibration
from onelap.arms.prompts import Prompt
from onelap.arms.scoring import score
from onelap.daily.model_card import model_card
from onelap.daily.sort import Classifier
from onelap.lap.run import Run
from onelap.machine.memory import cap_memory
from onelap.machine.precision import Precision
from onelap.machine.store import read_json, write_json, write_text
from onelap.verdict.compare import compare
from onelap.verdict.metrics import predictions_table
from onelap.verdict.sentences import percent

DESCRIPTION = "classifier.json"


def export(run: Run, folder: Path) -> dict:
    """Write the merged model with its prompt, kinds, temperature, thresholds and card.

    What was written is loaded again and scored on the test notes; returns what `check_verdict` does.
    Raises UserError where the folder is not empty, and RuntimeError, leaving no folder, where the
    verdict of the run would be another one.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a new or an empty folder, found something in it; name another one")
    classifier = Classifier.of(run)
    prompt, calibration = classifier.prompt, classifier.calibration
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as error:
        raise UserError(f"{folder}: nothing can be written there: {error.strerror}") from None
    print("merging, then scoring the test notes again", file=sys.stderr, flush=True)
    with place as unfinished:
        merged = Path(unfinished) / "model"
        merge(classifier.base, classifier.adapter, merged)
        prompt.tokenizer.save_pretrained(merged)
        write_json(merged / DESCRIPTION, description(prompt, calibration))
        test = run.read_part("test")
        texts, kinds = test["text"].tolist(), list(prompt.answers)
        model = load_merged(merged, classifier.precision)
        probabilities, seconds = score(model, prompt, texts, classifier.score_batch)
        del model  # Windows moves no file that is open
        predictions = predictions_table(test, calibration.apply(probabilities), kinds, seconds)
        difference = check_verdict(run, predictions, test["cluster"])
        write_text(merged / "README.md", model_card(run, difference, classifier.base))
        if folder.exists():
            folder.rmdir()
        merged.replace(folder)
    return difference


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """Save NF4 weights, unpacked, and an adapter as one model in 16 bits; on the CPU, which has more memory."""
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(base, trust_remote_code=False).dtype
    # bfloat16 holds any weight of a float32 model, float16 does not.
    dtype = stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16
    model = load_base(base, Precision("cpu", dtype, bf16=False, fp16=False, why="as it will be stored"))
    model = load_adapter(model.dequantize(dtype), adapter).merge_and_unload(safe_merge=True)
    model.save_pretrained(folder)


def load_merged(folder: Path, precision: Precision):
    """The model that `merge` has saved; what does not fit the card waits in memory."""
    from transformers import AutoModelForCausalLM

    cap_memory(precision.device)
    place = "cpu" if precision.device == "cpu" else "auto"
    options = {"dtype": precision.compute, "device_map": place, "trust_remote_code": False}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def description(prompt: Prompt, calibration: Calibration) -> dict:
    """What another program needs to ask the model as it was trained, and to read its scores.

    Raises RuntimeError where the prompt's text does not give its tokens again.
    """
    tokenizer = prompt.tokenizer
    told = {"before": prompt.before, "after": prompt.after, **prompt.answers}
    texts = {name: tokenizer.decode(ids, clean_up_tokenization_spaces=False) for name, ids in told.items()}
    for name, ids in told.items():
        if tokenizer(texts[name], add_special_tokens=False)["input_ids"] != ids:
            raise RuntimeError(f"the prompt's text {texts[name]!r} is not read as the tokens that the model has learnt")
    return {
        "before": texts.pop("before"),
        "after": texts.pop("after"),
        "answers": texts,
        "note_tokens": prompt.note_budget,
        **asdict(calibration),
    }


def check_verdict(run: Run, predictions: pd.DataFrame, clusters: pd.Series) -> dict:
    """`compare` of the export's predictions with the adapter's, and `changed`, `largest`: answers, and probability.

    Raises RuntimeError where they change the run's verdict.
    """
    found = read_json(run.comparison_path)
    adapter, _ = run.read_arm("qlora")
    before, _ = run.read_arm(found["before"])
    verdict = compare(found["before"], before, "export", predictions, clusters)["verdict"]
    difference = compare("qlora", adapter, "export", predictions, clusters)
    p, q = (np.array([list(row.values()) for row in table["probabilities"]]) for table in (adapter, predictions))
    difference["changed"] = int((adapter["predicted"] != predictions["predicted"]).sum())
    difference["largest"] = float(np.abs(p - q).max())
    difference["accuracy"] = float((predictions["predicted"] == predictions["kind"]).mean())
    if verdict != found["verdict"]:
        raise RuntimeError(
            f"the merged model is right for {percent(difference['accuracy'])} of the test notes, which changes the "
            f"verdict from {found['verdict']} to {verdict}; nothing was exported"
        )
    return difference
