"""QLoRA as in the published attempt, through TRL's SFTTrainer (Dettmers et al. 2023, arXiv 2305.14314)."""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, PrinterCallback, TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from onelap import UserError
from onelap.parameters import accumulation_steps
from onelap.precision import Precision, check_formats
from onelap.prompts import Prompt
from onelap.scoring import answer_log_likelihoods, lay_out

if "utf" not in sys.getfilesystemencoding() or (sys.platform == "win32" and not sys.flags.utf8_mode):
    raise UserError("Python must run in UTF-8 mode, or `import trl` fails: set PYTHONUTF8=1 and restart the kernel")
from trl import SFTConfig, SFTTrainer

SPELLING = 0.02  # nats of a label count this much beside those between the kinds (docs/LOG.md)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one training."""

    epochs: float
    learning_rate: float
    effective_batch: int
    """Notes an optimizer step."""
    micro_batch: int
    """Notes a forward pass; the rest of the effective batch is accumulated."""
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    gradient_checkpointing: bool
    label_temperature: float
    """What the kinds' scores are divided by in the loss; above 1 they are driven further apart."""
    evaluations: int
    """Passes over the validation notes, evenly spread; the best one's adapter is kept."""
    seed: int

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step."""
        return accumulation_steps(self.effective_batch, self.micro_batch)


class TrainingLog(TrainerCallback):
    """Writes `training/log.jsonl` as things happen: step, loss, learning rate, seconds, memory."""

    def __init__(self, path: Path):
        self.path = path
        self.started = self.last = time.perf_counter()

    def on_step_begin(self, args, state, control, **_):
        """Start the step's clock, after a validation pass has run."""
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        """Stop the step's clock, before a validation pass runs."""
        self.step_seconds = time.perf_counter() - self.last

    def on_log(self, args, state, control, logs, **_):
        """One line for each training step and for each validation pass."""
        line = {"step": state.global_step, "epoch": round(state.epoch, 4)}
        if not math.isfinite(logs.get("loss", logs.get("eval_loss", 0.0))):
            raise FloatingPointError(f"the loss is not finite at step {state.global_step}")
        if "loss" in logs:
            line |= {
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "gradient_norm": logs["grad_norm"],
                "step_seconds": round(self.step_seconds, 4),
            }
        elif "eval_loss" in logs:
            line |= {f"validation_{name}": logs[f"eval_{name}"] for name in ("loss", "accuracy", "macro_f1")}
        else:
            return
        line |= {
            "elapsed_seconds": round(time.perf_counter() - self.started, 2),
            "memory_gb": peak_memory_gb(),
        }
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")


class Budget(TrainerCallback):
    """Ends training when its seconds are spent, with one more validation pass; the best adapter so far is kept."""

    def __init__(self, seconds: float):
        self.ends = time.monotonic() + seconds

    def on_step_end(self, args, state, control, **_):
        """At least one step is made."""
        if time.monotonic() >= self.ends:
            control.should_evaluate = control.should_save = control.should_training_stop = True


class KindTrainer(SFTTrainer):
    """SFTTrainer that learns the very question the model is asked: which of the kinds, not which of all tokens.

    The loss is the cross-entropy over the kinds of what `scoring` computes, and a little of the usual
    one, the label's own likelihood, so that the model can still say what it chooses. No logits are
    computed for the prompt.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-probability of the true kinds and, `SPELLING` times, of their labels; nats a note."""
        kinds = inputs["labels"]
        laid_out = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids")}
        likelihoods = answer_log_likelihoods(model, self.prompt, laid_out, use_cache=False)
        scores = likelihoods / self.label_temperature
        notes = len(kinds) if num_items_in_batch is None else num_items_in_batch
        spelt = likelihoods.gather(1, kinds[:, None]).sum()
        loss = (cross_entropy(scores, kinds, reduction="sum") - SPELLING * spelt) / notes
        return (loss, SequenceClassifierOutput(loss, scores)) if return_outputs else loss

    def create_model_card(self, *_, **__):
        """Nothing: TRL's card beside every checkpoint is a form to fill in, not a record."""


def validation_rates(evaluated: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro-F1 on validation: they go on rising after the loss has turned."""
    truth, predicted = evaluated.label_ids, evaluated.predictions.argmax(axis=1)
    f1 = f1_score(truth, predicted, average="macro", zero_division=0.0)
    return {"accuracy": float((truth == predicted).mean()), "macro_f1": float(f1)}


def peak_memory_gb() -> float:
    """Peak so far, in units of 10⁹ bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_reserved() / 1e9, 3)
    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return round(info.peak_wset / 1e9, 3)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def add_lora(model, recipe: Recipe):
    """Put fresh LoRA matrices on the seven linear layers of every block.

    Raises UserError for a base whose blocks have other layers (fused ones, say).
    """
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(recipe.seed)
    model = get_peft_model(model, config)
    adapted = {name.rpartition(".")[2] for name in model.targeted_module_names}
    if adapted != set(TARGETS):
        missing = ", ".join(target for target in TARGETS if target not in adapted)
        raise UserError(f"base_model: expected blocks with {', '.join(TARGETS)}, as Qwen2 and Llama have; no {missing}")
    return model


def build_trainer(
    model,
    prompt: Prompt,
    precision: Precision,
    recipe: Recipe,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    folder: Path,
) -> KindTrainer:
    """An SFTTrainer on notes (columns `text`, `kind`); `model` already has its LoRA matrices.

    Log and checkpoints go to `folder`.
    """

    def collate(notes: list[dict]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([note["labels"] for note in notes])
        # The Trainer counts a batch's labels by the second name where there is one, by the first less one otherwise.
        return lay_out(prompt, [note["input_ids"] for note in notes]) | {"labels": labels, "shift_labels": labels}

    trainer = KindTrainer(
        model,
        _arguments(recipe, precision, len(train), folder),
        train_dataset=_examples(prompt, train),
        eval_dataset=_examples(prompt, validation),
        processing_class=prompt.tokenizer,
        data_collator=collate,
        compute_metrics=validation_rates,
        callbacks=[TrainingLog(folder / "log.jsonl")],
    )
    trainer.prompt, trainer.label_temperature = prompt, recipe.label_temperature
    trainer.remove_callback(PrinterCallback)
    # SFTTrainer has cast the LoRA matrices of a quantized model to bfloat16, whatever its
    # arguments say: a gradient scaler dies on them, and a Turing card only emulates them.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    check_formats(trainer.model, precision)
    return trainer


def _examples(prompt: Prompt, notes: pd.DataFrame) -> Dataset:
    """`input_ids`, up to where the answer is due, and `labels`, the number of the kind."""
    kinds = list(prompt.answers)
    pairs = zip(notes["text"], notes["kind"], strict=True)
    return Dataset.from_list([{"input_ids": prompt.encode(text), "labels": kinds.index(kind)} for text, kind in pairs])


def _arguments(recipe: Recipe, precision: Precision, notes: int, folder: Path) -> SFTConfig:
    steps = math.ceil(math.ceil(notes / recipe.effective_batch) * recipe.epochs)
    between = math.ceil(steps / recipe.evaluations)
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        per_device_train_batch_size=recipe.micro_batch,
        # Not the micro-batch: the choice of the best adapter must not depend on the memory at hand.
        per_device_eval_batch_size=recipe.effective_batch,
        gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.05 * steps),
        optim="paged_adamw_8bit" if precision.device != "cpu" else "adamw_torch",
        bf16=precision.bf16,
        fp16=precision.fp16,
        use_cpu=precision.device == "cpu",
        # Inputs are made by Prompt: TRL would cut the answer, not the note.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=between,
        save_steps=between,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_macro_f1",
        logging_steps=1,
        # The Trainer would hide a loss that is not finite.
        logging_nan_inf_filter=False,
        dataloader_pin_memory=precision.device != "cpu",
        disable_tqdm=True,
        report_to="none",
        seed=recipe.seed,
    )


def train(trainer: KindTrainer, adapter: Path, seconds: float) -> pd.DataFrame:
    """Train for at most so many seconds, save the adapter that did best on validation, return the log as a table."""
    trainer.add_callback(Budget(seconds))
    trainer.train()
    trainer.model.save_pretrained(adapter)
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's form, likewise
    return pd.read_json(Path(trainer.args.output_dir) / "log.jsonl", lines=True)
