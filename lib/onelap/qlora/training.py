"""QLoRA as in the published attempt, through TRL's SFTTrainer (Dettmers et al. 2023, arXiv 2305.14314)."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from bitsandbytes.optim import GlobalOptimManager
from datasets import Dataset
from filelock import FileLock, Timeout
from peft import LoraConfig, get_peft_model
from sklearn.metrics import f1_score
from transformers import EvalPrediction, PrinterCallback

from onelap import UserError
from onelap.arms.base import hash_base, load_base
from onelap.arms.prompts import Prompt
from onelap.machine import guard
from onelap.machine.memory import is_out_of_memory, release_memory
from onelap.machine.precision import Precision, check_formats
from onelap.machine.store import read_json, write_json
from onelap.qlora import checkpoints
from onelap.qlora.log import Clock
from onelap.qlora.recipe import Recipe
from onelap.qlora.trainer import KindTrainer, trainer_arguments

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FINISHED = "finished.json"  # written when a training ends, by its steps or by its budget
LOCK_SECONDS = 15  # for a process that was killed with its parent to end


def validation_rates(evaluation: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro-F1 on validation, which go on rising after the loss has turned."""
    truth, predicted = evaluation.label_ids, evaluation.predictions.argmax(axis=1)
    f1 = f1_score(truth, predicted, average="macro", zero_division=0.0)
    return {"accuracy": float((truth == predicted).mean()), "macro_f1": float(f1)}


def add_lora(model, recipe: Recipe):
    """Put fresh LoRA matrices on seven layers of every block. Raises UserError where blocks have other layers."""
    sizes = {"r": recipe.lora_rank, "lora_alpha": recipe.lora_alpha, "lora_dropout": recipe.lora_dropout}
    torch.manual_seed(recipe.seed)
    model = get_peft_model(model, LoraConfig(**sizes, target_modules=TARGETS, task_type="CAUSAL_LM"))
    adapted = Counter(name.rpartition(".")[2] for name in model.targeted_module_names)
    blocks = len(model.get_decoder().layers)
    if missing := ", ".join(f"{target} in {adapted[target]}" for target in TARGETS if adapted[target] != blocks):
        raise UserError(
            f"base_model: expected {', '.join(TARGETS)} in each of its {blocks} blocks, as Llama, Qwen2 and Qwen3 have "
            f"them; found {missing}. LoRA would miss the rest: take another base"
        )
    return model


def prepare_trainer(
    base: Path, prompt: Prompt, precision: Precision, recipe: Recipe, train: pd.DataFrame, validation: pd.DataFrame,
    folder: Path, shard: Callable | None = None,
) -> KindTrainer:  # fmt: skip
    """Make a trainer of base and LoRA matrices on notes (columns `text`, `kind`); log and checkpoints go to `folder`.

    `shard(trainer, device)` spreads the base over the processes that share the training. Where probe steps overflow in
    `precision` the trainer is in float32, and prints that. Raises FloatingPointError where they do so in float32 too.
    """
    GlobalOptimManager.get_instance().module_weight_config_triple.clear()  # it keeps earlier trainings' embeddings
    # Made before the base is loaded, because a wrong recipe is refused here.
    arguments = trainer_arguments(recipe, precision, len(train), folder)
    model = add_lora(load_base(base, precision, to_be_sharded=shard is not None), recipe)
    notes = {"train_dataset": _examples(prompt, train), "eval_dataset": _examples(prompt, validation)}
    functions = {"processing_class": prompt.tokenizer, "data_collator": _collate, "compute_metrics": validation_rates}
    ours = {"prompt": prompt, "recipe": recipe, "precision": precision, "base_digest": hash_base(base)}
    trainer = KindTrainer(model, arguments, **notes, **functions, **ours)
    trainer.remove_callback(PrinterCallback)
    # SFTTrainer has cast the LoRA matrices of a quantized model to bfloat16, whatever its arguments say: a gradient
    # scaler fails on them, and a Turing card only emulates them.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recipe.gradient_checkpointing:
        trainer.checkpoint_activations()  # not only in training, as the Trainer would
    check_formats(trainer.model, precision)
    if shard:
        shard(trainer, precision.device)
    if learns_finitely(trainer):
        return trainer
    if precision.safe == precision:
        raise FloatingPointError("loss or gradients are not finite before the first step, in float32")
    print(f"Loss or gradients are not finite in {precision.name}: training in {precision.safe.name} instead, slower.")
    del model, trainer
    return prepare_trainer(base, prompt, precision.safe, recipe, train, validation, folder, shard)


def learns_finitely(trainer: KindTrainer) -> bool:
    """Tell whether loss and gradients are finite on the longest, a medium and the shortest note; no weight changes."""
    rows = sorted(trainer.train_dataset, key=lambda row: len(row["input_ids"]))
    model, finite = trainer.model.train(), True
    with torch.random.fork_rng():
        for row in (rows[-1], rows[len(rows) // 2], rows[0]):
            inputs = trainer._prepare_inputs(trainer.data_collator([row]))
            try:
                with trainer.accelerator.autocast():
                    loss = trainer.compute_loss(model, inputs)
                # Without the gradient scaler: it begins so high that it overflows, and then adapts.
                loss.backward()
            except Exception as error:
                if trainer.is_distributed_loading_by_transformers or not is_out_of_memory(error):
                    raise
                loss = None  # it holds the graph
                release_memory(error)  # in training, the trainer's ladder handles this
            else:
                gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
                finite &= all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *gradients))
            model.zero_grad()
    in_all_processes = trainer.accelerator.gather(torch.tensor([finite], device=trainer.args.device))
    return bool(in_all_processes.all())


def _examples(prompt: Prompt, notes: pd.DataFrame) -> Dataset:
    """`input_ids`, up to where the answer is due, and `labels`, the number of the kind."""
    labels = [list(prompt.answers).index(kind) for kind in notes["kind"]]
    return Dataset.from_dict({"input_ids": list(map(prompt.encode, notes["text"])), "labels": labels})


def _collate(notes: list[dict]) -> dict:
    """`prompts`, and the kinds twice: the Trainer counts notes by `labels`, labels by `shift_labels`."""
    labels = torch.tensor([note["labels"] for note in notes])
    prompts = [torch.tensor(note["input_ids"]) for note in notes]
    return {"labels": labels, "shift_labels": labels, "prompts": prompts}


def train(trainer: KindTrainer, adapter: Path, seconds: float) -> pd.DataFrame:
    """Train for at most so many seconds, save the adapter that did best on validation, return the log as a table.

    Resumes from the newest complete checkpoint of the same training; what another training left in the folder is
    removed. Raises UserError where another process trains in this folder.
    """
    folder, accelerator = Path(trainer.args.output_dir), trainer.accelerator
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = nullcontext() if accelerator.process_index else FileLock(folder / ".lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(f"{folder}: another process is training there; wait for it or end it") from None
    with lock:
        with accelerator.main_process_first():
            start = _starting_point(trainer, folder)
            shutil.rmtree(adapter, ignore_errors=True)
        trainer.add_callback(Clock(seconds, trainer.recipe.checkpoint_minutes))
        # Weights & Biases gets figures where the user has allowed it; nothing else leaves the machine.
        uploads = "wandb" in trainer.args.report_to and os.environ["WANDB_MODE"] == "online"
        with guard.allow_network() if uploads else nullcontext():
            trainer.train(resume_from_checkpoint=start and str(start))
        if accelerator.is_main_process:
            trainer.save_adapter(adapter)
            write_json(folder / FINISHED, {"step": trainer.state.global_step})
    return pd.read_json(folder / "log.jsonl", lines=True)


def _starting_point(trainer: KindTrainer, folder: Path) -> Path | None:
    """The checkpoint to resume from; one of another training is removed."""
    inputs, fingerprint = folder / "inputs.json", trainer.fingerprint
    stored = read_json(inputs) if inputs.exists() else {}
    if stored == fingerprint:
        start, problems = checkpoints.newest_complete(folder)
        for line in problems:
            print(line)
        if start:
            trainer.finished = (folder / FINISHED).exists()
            print(f"Resuming from {start.name}.")
        return start
    others = checkpoints.list_checkpoints(folder).values()
    if others:
        changed = ", ".join(name for name in fingerprint if stored.get(name) != fingerprint[name])
        print(f"The checkpoints here are of another training ({changed}): removed.")
    for path in others:
        checkpoints.discard(path)
    for name in (FINISHED, "log.jsonl"):
        (folder / name).unlink(missing_ok=True)
    write_json(inputs, fingerprint)
    return None
