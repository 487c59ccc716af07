"""A run's adapter merged into its base: a plain Hugging Face folder, for programs that do not know this one.

The adapter is merged into the base that it was trained on: the NF4 weights, unpacked to 16 bits. Merged into the
original weights, it would correct errors that are not there (docs/LOG.md has both measured).
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import AutoConfig, AutoModelForCausalLM

from onelap import UserError, find_path
from onelap.arms.base import load_adapter, load_base
from onelap.arms.calibration import Calibration
from onelap.arms.prompts import Prompt
from onelap.arms.scoring import score
from onelap.daily.sort import PromptedBase
from onelap.lap.run import Run
from onelap.machine.hub import split_name
from onelap.machine.memory import cap_memory
from onelap.machine.precision import Precision
from onelap.machine.store import read_json, write_json, write_text
from onelap.verdict import sentences
from onelap.verdict.compare import TUNED, compare
from onelap.verdict.metrics import is_right, predictions_table


def export(run: Run, folder: Path) -> dict:
    """Write the merged model with its prompt, kinds, temperature, thresholds and model card into a new folder.

    The model is loaded again from there and scored on the test notes; returns what `check_verdict` returns. Raises
    UserError where the folder is not empty, and RuntimeError, leaving no folder, where the run's verdict would change.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a new or an empty folder, found something in it; name another one")
    prompted, calibration = PromptedBase.of(run), Calibration(**run.read_sorter(TUNED)["calibration"])
    prompt, precision, adapter = prompted.prompt, prompted.precision, run.own_adapter()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workplace = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as error:
        raise UserError(f"{folder}: nothing can be written there: {error.strerror}") from None
    print("merging, then scoring the test notes again", file=sys.stderr, flush=True)
    with workplace as path:
        merged = Path(path) / "model"
        merge(prompted.base, adapter, merged)
        prompt.tokenizer.save_pretrained(merged)
        write_json(merged / "classifier.json", describe_classifier(prompt, calibration))
        test = run.read_part("test")
        cap_memory(precision.device)  # layers that do not fit the GPU stay in system memory
        options = {"dtype": precision.compute, "device_map": "cpu" if precision.device == "cpu" else "auto"}
        model = AutoModelForCausalLM.from_pretrained(merged, trust_remote_code=False, **options).eval()
        probabilities, seconds = score(model, prompt, test["text"].tolist(), run.scoring["score_batch"])
        del model  # Windows moves no file that is open
        predictions = predictions_table(test, calibration.apply(probabilities), list(prompt.answers), seconds)
        check = check_verdict(run, predictions, test["cluster"])
        write_text(merged / "README.md", model_card(run, check, prompted.base))
        if folder.exists():
            folder.rmdir()
        merged.replace(folder)
    return check


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """Save NF4 weights, unpacked, and an adapter as one model in 16 bits; on the CPU, which has more memory."""
    stored = AutoConfig.from_pretrained(base, trust_remote_code=False).dtype
    # bfloat16 holds any weight of a float32 model, float16 does not.
    dtype = stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16
    as_stored = Precision("cpu", dtype, bf16=False, fp16=False, why="as it will be stored")
    model = load_adapter(load_base(base, as_stored, unpacked=True), adapter).merge_and_unload(safe_merge=True)
    model.save_pretrained(folder)


def describe_classifier(prompt: Prompt, calibration: Calibration) -> dict:
    """Describe prompt and scores for classifier.json.

    `logit_bias` {token id: nats} has the calibration's offsets as other programs take them: greedy generation with it,
    and with nothing but `answer_tokens` allowed, gives the answers of `onelap sort`.
    """
    tokens = prompt.answer_tokens
    answers = {
        "answer_tokens": tokens,
        "logit_bias": {tokens[kind]: nats for kind, nats in calibration.offsets.items()},
    }
    texts = {"before": prompt.before, "after": prompt.after, "note_tokens": prompt.note_budget}
    return texts | answers | asdict(calibration)


def check_verdict(run: Run, predictions: pd.DataFrame, clusters: pd.Series) -> dict:
    """Compare the predictions of the export with those of the adapter, on the test notes.

    Returns the result of `compare`, and `changed` (number of answers), `largest` (difference of a probability) and
    `accuracy`. Raises RuntimeError where the run's verdict would change.
    """
    comparison = read_json(run.comparison_path)
    (adapter, _), (before, _) = run.read_arm(TUNED), run.read_arm(comparison["before"])
    verdict = compare(comparison["before"], before, "export", predictions, clusters)["verdict"]
    accuracy = float(is_right(predictions).mean())
    if verdict != comparison["verdict"]:
        raise RuntimeError(
            f"the merged model is right for {sentences.percent(accuracy)} of the test notes, which changes the "
            f"verdict from {comparison['verdict']} to {verdict}; nothing was exported"
        )
    p, q = (np.array([list(row.values()) for row in table["probabilities"]]) for table in (adapter, predictions))
    return compare(TUNED, adapter, "export", predictions, clusters) | {
        "changed": int((adapter["predicted"] != predictions["predicted"]).sum()),
        "largest": float(np.abs(p - q).max()),
        "accuracy": accuracy,
    }


def model_card(run: Run, check: dict, base: Path) -> str:
    """Fill in templates/model_card.md from a run's record and the result of `check_verdict`; it quotes no note."""
    manifest, scoring = run.read_manifest(), run.scoring
    look = {"trim_blocks": True, "keep_trailing_newline": True, "undefined": StrictUndefined}
    template = Environment(loader=PackageLoader("onelap"), **look).get_template("model_card.md")
    return template.render(
        vars(sentences),  # how numbers are written
        base=base.name,
        repository=split_name(scoring["base_model"])[0],
        on_this_machine=find_path(scoring["base_model"]).exists(),  # then its name is a path, which is not shown
        comparison=read_json(run.comparison_path),
        check=check,
        manifest=manifest,
        sources=len({source for part in manifest["sources"].values() for source in part if source}),
        scoring=scoring,
        versions=run.record["versions"],
    )
