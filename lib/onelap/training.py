"""QLoRA as in the published attempt, through TRL's SFTTrainer (Dettmers et al. 2023, arXiv 2305.14314)."""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from filelock import FileLock, Timeout
from peft import LoraConfig, get_peft_model
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, PrinterCallback
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import LengthGroupedSampler

from onelap import UserError, checkpoints
from onelap.callbacks import Budget, Checkpoints, TrainingLog
from onelap.memory import Pieces, give_back, ran_out
from onelap.models import load_base
from onelap.parameters import accumulation_steps
from onelap.precision import Precision, check_formats
from onelap.prompts import MIN_NOTE_TOKENS, Prompt
from onelap.runs import read_json, versions, write_json
from onelap.scoring import answer_log_likelihoods, lay_out

if "utf" not in sys.getfilesystemencoding() or (sys.platform == "win32" and not sys.flags.utf8_mode):
    raise UserError("Python must run in UTF-8 mode, or `import trl` fails: set PYTHONUTF8=1 and restart the kernel")
from trl import SFTConfig, SFTTrainer

SPELLING = 0.02  # nats of a label count this much beside those between the kinds (docs/LOG.md)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WATCHING = ("checkpoint_minutes", "report_to", "allow_upload")  # of a recipe: changes nothing that is learnt
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")  # that a checkpoint depends on
ENDED = "ended.json"  # written when a training has come to its end, by its steps or by its budget
SHORTER = 0.75  # of a note's tokens are left at each rung that cuts texts
LOCK_SECONDS = 15  # a process that was killed with its parent needs a moment to go


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
    checkpoint_minutes: float = 10.0
    """At most so much training is lost when the machine stops."""
    report_to: str = "none"
    """Who else is told what the log is told: "tensorboard" or "wandb"."""
    allow_upload: bool = False
    """Without it Weights & Biases keeps what it is told in the training folder."""

    @classmethod
    def of(cls, parameters: dict) -> "Recipe":
        """From all parameters of a lap."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step, in each of the processes that share the training."""
        return accumulation_steps(self.effective_batch, self.micro_batch * int(os.environ.get("WORLD_SIZE", 1)))


class ByLength(LengthGroupedSampler):
    """Notes of like length together, in an order that depends on seed and epoch alone.

    So a training that is taken up in the middle of an epoch sees the rest of that very epoch.
    """

    def __init__(self, lengths: list[int], batch: int, seed: int, epoch: Callable[[], int]):
        super().__init__(batch, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self):
        self.generator.manual_seed(1000 * self.seed + self.epoch())
        return super().__iter__()


class KindTrainer(SFTTrainer):
    """SFTTrainer that learns the very question the model is asked: which of the kinds, not which of all tokens.

    The loss is the cross-entropy over the kinds of what `scoring` computes, and a little of the usual
    one, the label's own likelihood, so that the model can still say what it chooses. No logits are
    computed for the prompt.

    Where memory runs out it goes down a ladder and repeats the micro-batch: smaller pieces of it, then gradient
    checkpointing, then shorter texts. Its checkpoints are those of `onelap.checkpoints`.
    """

    def __init__(self, *arguments, prompt: Prompt, recipe: Recipe, precision: Precision, log: TrainingLog, **options):
        super().__init__(*arguments, callbacks=[log, Checkpoints(recipe.checkpoint_minutes)], **options)
        self.prompt, self.recipe, self.precision, self.training_log = prompt, recipe, precision, log
        self.piece, self.note_budget, self.validation_budget = (
            recipe.micro_batch,
            prompt.note_budget,
            prompt.note_budget,
        )
        self.validation_pieces = Pieces(self.args.per_device_eval_batch_size)
        self.rungs: list[str] = []
        """What was given up for want of memory, in order."""
        self.ended = False
        """Whether an earlier session came to the end of this training; then only its best adapter is loaded."""
        self.step_inputs: list[dict] = []
        """Micro-batches of the optimizer step under way."""

    @property
    def fingerprint(self) -> dict:
        """All that a checkpoint depends on: one of another fingerprint is not gone on from."""
        weights = [weight for weight in self.model.parameters() if not weight.requires_grad]
        frozen = b"".join(one.detach().cpu().view(torch.uint8).numpy().tobytes() for one in (weights[1], weights[-1]))
        rows = [[list(row.values()) for row in rows] for rows in (self.train_dataset, self.eval_dataset)]
        digests = {"base": frozen, "notes": json.dumps(rows).encode()}
        return {
            "recipe": {name: value for name, value in asdict(self.recipe).items() if name not in WATCHING},
            "precision": f"{self.precision.name} on {self.args.device.type}",
            "prompt": self.prompt.digest,
            "versions": {name: version for name, version in versions().items() if name in LIBRARIES},
        } | {name: hashlib.sha256(content).hexdigest() for name, content in digests.items()}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-probability of the true kinds and, `SPELLING` times, of their labels; nats a note."""
        kinds = inputs["labels"]

        def likelihoods_of(notes: list[torch.Tensor], budget: int) -> torch.Tensor:
            rows = [self.prompt.cut(note.tolist(), budget) for note in notes]
            laid_out = lay_out(self.prompt, rows, device=kinds.device)
            return answer_log_likelihoods(model, self.prompt, laid_out, use_cache=False)

        if model.training:
            likelihoods = likelihoods_of(inputs["input_ids"], self.note_budget)
        else:
            likelihoods = self._validated(likelihoods_of, inputs["input_ids"])
        scores = likelihoods / self.recipe.label_temperature
        spelt = likelihoods.gather(1, kinds[:, None]).sum()
        # The Trainer counts the notes of all processes, whose gradients are averaged afterwards.
        share = len(kinds) if num_items_in_batch is None else num_items_in_batch / self.args.world_size
        loss = (cross_entropy(scores, kinds, reduction="sum") - SPELLING * spelt) / share
        return (loss, SequenceClassifierOutput(loss, scores)) if return_outputs else loss

    def _validated(self, likelihoods_of: Callable, notes: list[torch.Tensor]) -> torch.Tensor:
        """Of a validation batch, whole texts as long as there is memory: smaller pieces first, shorter texts last."""
        while True:
            try:
                at_length = partial(likelihoods_of, budget=self.validation_budget)
                return torch.cat(self.validation_pieces.each(at_length, notes))
            except Exception as error:
                if not ran_out(error) or self.validation_budget == MIN_NOTE_TOKENS:
                    raise
                give_back(error)
            self.validation_budget = max(MIN_NOTE_TOKENS, int(SHORTER * self.validation_budget))
            self._record_rung(f"{self.validation_budget} tokens a validation note")

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward of a micro-batch, in smaller pieces and again where memory runs out."""
        if next(weight for weight in model.parameters() if weight.requires_grad).grad is None:
            self.step_inputs = []
        self.step_inputs.append(inputs)
        pending = [inputs]
        while True:
            try:
                return [self._learn(model, one, num_items_in_batch) for one in pending][-1]
            except Exception as error:
                if self.args.world_size > 1 or not ran_out(error) or not self._descend():
                    raise
                give_back(error)
            # The failed attempt has left part of its gradients: this step begins anew.
            model.zero_grad()
            pending = self.step_inputs

    def _learn(self, model, inputs: dict, count: int) -> torch.Tensor:
        loss = 0.0
        for first in range(0, len(inputs["labels"]), self.piece):
            piece = {name: values[first : first + self.piece] for name, values in inputs.items()}
            loss += super().training_step(model, piece, count)
        return loss

    def _descend(self) -> bool:
        """Give up something for memory; whether there was anything left to give up."""
        if self.piece > 1:
            self.piece = (self.piece + 1) // 2
            rung = f"micro_batch={self.piece}"
        elif not self.model.is_activation_checkpointing:
            self._checkpoint_activations()
            rung = "gradient_checkpointing=true"
        elif self.note_budget > MIN_NOTE_TOKENS:
            self.note_budget = max(MIN_NOTE_TOKENS, int(SHORTER * self.note_budget))
            rung = f"{self.note_budget} tokens a note"
        else:
            return False
        self._record_rung(rung)
        return True

    def _record_rung(self, rung: str) -> None:
        self.rungs.append(rung)
        if self.is_in_train:
            self.training_log.write(self.state, rung=rung)

    def _checkpoint_activations(self) -> None:
        self.model.enable_input_require_grads()
        self.model.activation_checkpointing_enable()

    def _get_train_sampler(self, train_dataset=None):
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        return ByLength(lengths, self.recipe.effective_batch, self.args.seed, lambda: int(self.state.epoch or 0))

    def floating_point_ops(self, inputs):
        """Not counted by the Trainer's formula, which knows no tree of answers; see `onelap.plan`."""
        return 0

    def _save_checkpoint(self, model, trial):
        """Instead of the Trainer's, which pickles, and which is not written atomically."""
        if self.args.should_save:
            self._write_checkpoint()
        self.accelerator.wait_for_everyone()
        self._find_best()

    def _write_checkpoint(self) -> None:
        training = Path(self.args.output_dir)
        folder = checkpoints.checkpoint_path(training, self.state.global_step)
        checkpoints.discard(folder)
        self.accelerator.unwrap_model(self.model).save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in
        scaler = self.accelerator.scaler
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "random": checkpoints.random_state(),
            "ladder": (self.piece, self.note_budget, self.rungs, self.model.is_activation_checkpointing),
        }
        checkpoints.write_state(folder, state)
        self.state.best_model_checkpoint = None  # a run folder may be moved: the step is enough
        self.state.save_to_json(str(folder / "trainer_state.json"))
        checkpoints.seal(folder)
        best = checkpoints.checkpoint_path(training, self.state.best_global_step or self.state.global_step)
        for other in set(checkpoints.found_in(training).values()) - {folder, best}:
            checkpoints.discard(other)

    def _find_best(self) -> None:
        if self.state.best_global_step:
            best = checkpoints.checkpoint_path(Path(self.args.output_dir), self.state.best_global_step)
            self.state.best_model_checkpoint = str(best)

    def _init_training_state(self, *arguments):
        found = super()._init_training_state(*arguments)
        self._find_best()
        return found

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            state = checkpoints.read_state(Path(checkpoint))
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["schedule"])
            self.piece, self.note_budget, self.rungs, checkpointing = state["ladder"]
            if checkpointing and not self.model.is_activation_checkpointing:
                self._checkpoint_activations()

    def _load_scaler(self, checkpoint):
        if checkpoint is not None and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(checkpoints.read_state(Path(checkpoint))["scaler"])

    def _load_rng_state(self, checkpoint):
        if checkpoint is not None:
            checkpoints.set_random_state(checkpoints.read_state(Path(checkpoint))["random"])

    def _run_epoch(self, *arguments, **options):
        if self.ended or self.state.global_step >= self.state.max_steps:  # taken up after its last step
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)

    def create_model_card(self, *_, **__):
        """Nothing: TRL's card beside every checkpoint is a form to fill in, not a record."""


def validation_rates(evaluated: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro-F1 on validation: they go on rising after the loss has turned."""
    truth, predicted = evaluated.label_ids, evaluated.predictions.argmax(axis=1)
    f1 = f1_score(truth, predicted, average="macro", zero_division=0.0)
    return {"accuracy": float((truth == predicted).mean()), "macro_f1": float(f1)}


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


def prepare_trainer(
    base: Path,
    prompt: Prompt,
    precision: Precision,
    recipe: Recipe,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    folder: Path,
) -> KindTrainer:
    """Base, LoRA matrices and trainer; in float32 where probe steps give no finite loss and gradients, and says so."""
    clear_device_cache(garbage_collection=True)  # of an earlier trainer
    trainer = build_trainer(
        add_lora(load_base(base, precision), recipe), prompt, precision, recipe, train, validation, folder
    )
    if learns_finitely(trainer):
        return trainer
    if precision.safe == precision:
        raise FloatingPointError("loss or gradients are not finite before the first step, in float32")
    print(f"Loss or gradients are not finite in {precision.name}: training in {precision.safe.name} instead, slower.")
    del trainer
    return prepare_trainer(base, prompt, precision.safe, recipe, train, validation, folder)


def build_trainer(
    model,
    prompt: Prompt,
    precision: Precision,
    recipe: Recipe,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    folder: Path,
) -> KindTrainer:
    """A trainer on notes (columns `text`, `kind`); `model` already has its LoRA matrices.

    Log and checkpoints go to `folder`.
    """
    trainer = KindTrainer(
        model,
        _arguments(recipe, precision, len(train), folder),
        train_dataset=_examples(prompt, train),
        eval_dataset=_examples(prompt, validation),
        processing_class=prompt.tokenizer,
        data_collator=_collate,
        compute_metrics=validation_rates,
        prompt=prompt,
        recipe=recipe,
        precision=precision,
        log=TrainingLog(folder / "log.jsonl"),
    )
    trainer.remove_callback(PrinterCallback)
    # SFTTrainer has cast the LoRA matrices of a quantized model to bfloat16, whatever its
    # arguments say: a gradient scaler dies on them, and a Turing card only emulates them.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    check_formats(trainer.model, precision)
    return trainer


def learns_finitely(trainer: KindTrainer) -> bool:
    """Whether loss and gradients are finite on the longest, a middling and the shortest note; nothing is learnt."""
    rows = sorted(trainer.train_dataset, key=lambda row: len(row["input_ids"]))
    model, finite = trainer.model.train(), True
    with torch.random.fork_rng():
        for row in (rows[-1], rows[len(rows) // 2], rows[0]):
            inputs = trainer._prepare_inputs(trainer.data_collator([row]))
            try:
                with trainer.accelerator.autocast():
                    loss = trainer.compute_loss(model, inputs)
                # Without the gradient scaler, which begins so high that it overflows, and then finds its way.
                loss.backward()
            except Exception as error:
                if not ran_out(error):
                    raise
                give_back(error)  # the ladder's business, later
            else:
                gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
                finite &= all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *gradients))
            model.zero_grad()
    everywhere = trainer.accelerator.gather(torch.tensor([finite], device=trainer.args.device))
    return bool(everywhere.all())


def _collate(notes: list[dict]) -> dict:
    """Labels first: the Trainer takes the first tensor's length for the number of notes."""
    labels = torch.tensor([note["labels"] for note in notes])
    # It counts a batch's labels by the second name where there is one, by the first less one otherwise.
    return {
        "labels": labels,
        "shift_labels": labels,
        "input_ids": [torch.tensor(note["input_ids"]) for note in notes],
    }


def _examples(prompt: Prompt, notes: pd.DataFrame) -> Dataset:
    """`input_ids`, up to where the answer is due, and `labels`, the number of the kind."""
    kinds = list(prompt.answers)
    pairs = zip(notes["text"], notes["kind"], strict=True)
    return Dataset.from_list([{"input_ids": prompt.encode(text), "labels": kinds.index(kind)} for text, kind in pairs])


def _arguments(recipe: Recipe, precision: Precision, notes: int, folder: Path) -> SFTConfig:
    os.environ["TENSORBOARD_LOGGING_DIR"] = os.environ["WANDB_DIR"] = str(folder / "reports")
    os.environ["WANDB_MODE"] = "online" if recipe.allow_upload else "offline"
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
        load_best_model_at_end=True,
        metric_for_best_model="eval_macro_f1",
        logging_steps=1,
        # The Trainer would hide a loss that is not finite.
        logging_nan_inf_filter=False,
        dataloader_pin_memory=precision.device != "cpu",
        disable_tqdm=True,
        report_to=recipe.report_to,
        seed=recipe.seed,
    )


def train(trainer: KindTrainer, adapter: Path, seconds: float) -> pd.DataFrame:
    """Train for at most so many seconds, save the adapter that did best on validation, return the log as a table.

    Goes on from the newest whole checkpoint of the same training, if there is one; what another training
    left in the folder is removed. Raises UserError where another process trains in this folder.
    """
    folder, accelerator = Path(trainer.args.output_dir), trainer.accelerator
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) if accelerator.is_main_process else nullcontext():
        with accelerator.main_process_first():
            start = _starting_point(trainer, folder)
            shutil.rmtree(adapter, ignore_errors=True)
        trainer.add_callback(Budget(seconds))
        trainer.train(resume_from_checkpoint=start and str(start))
        if accelerator.is_main_process:
            accelerator.unwrap_model(trainer.model).save_pretrained(adapter)
            (adapter / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in
            write_json(folder / ENDED, {"step": trainer.state.global_step})
    return pd.read_json(folder / "log.jsonl", lines=True)


def _locked(folder: Path) -> FileLock:
    try:
        return FileLock(folder / ".lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(f"{folder}: another process is training there; wait for it or end it") from None


def _starting_point(trainer: KindTrainer, folder: Path) -> Path | None:
    inputs, same = folder / "inputs.json", trainer.fingerprint
    stored = read_json(inputs) if inputs.exists() else {}
    if stored == same:
        start, passed_over = checkpoints.newest_complete(folder)
        for line in passed_over:
            print(line)
        if start:
            trainer.ended = (folder / ENDED).exists()
            print(f"Going on from {start.name}.")
        return start
    found = checkpoints.found_in(folder)
    if found:
        other = ", ".join(name for name in same if stored.get(name) != same[name])
        print(f"The checkpoints here are of another training ({other}): removed.")
    for path in found.values():
        checkpoints.discard(path)
    for name in (ENDED, "log.jsonl"):
        (folder / name).unlink(missing_ok=True)
    write_json(inputs, same)
    return None
