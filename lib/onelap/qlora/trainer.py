"""TRL's SFTTrainer for one question, which kind a note is: its loss, its use of memory, and its checkpoints."""

import hashlib
import importlib.metadata
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import LengthGroupedSampler

from onelap import UserError
from onelap.arms.prompts import MIN_NOTE_TOKENS, Prompt
from onelap.arms.scoring import next_token_logits, padded
from onelap.machine.memory import Pieces, is_out_of_memory, release_memory
from onelap.machine.precision import Precision
from onelap.machine.tensors import random_state, read_state, set_random_state, write_state
from onelap.qlora import checkpoints
from onelap.qlora.log import TrainingLog
from onelap.qlora.recipe import Recipe, micro_batches, notes_a_process

if "utf" not in sys.getfilesystemencoding() or (sys.platform == "win32" and not sys.flags.utf8_mode):
    raise UserError(
        "Python must run in UTF-8 mode, or `import trl` fails: set PYTHONUTF8=1 (Windows: setx PYTHONUTF8 1, then a "
        "new window), and start again"
    )
from trl import SFTConfig, SFTTrainer

ANY_KIND_WEIGHT, SPELLING_WEIGHT = 0.2, 0.02  # beside the loss of which kind; chosen out of fold (docs/LOG.md)
PADDING = -100  # behind an answer that is shorter than others
WITHOUT_EFFECT = ("checkpoint_minutes", "report_to", "allow_upload")  # parts of a recipe that change no weight
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")  # that a checkpoint depends on
SHORTENING = 0.75  # of a note's tokens are kept at each rung of the ladder that cuts texts
WARMUP = 0.05  # of all steps


class ByLength(LengthGroupedSampler):
    """Samples notes of similar length together, in an order that a training which resumes in an epoch can repeat."""

    def __init__(self, lengths: list[int], batch: int, seed: int, epoch: Callable[[], int]):
        super().__init__(batch, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self):
        self.generator.manual_seed(1000 * self.seed + self.epoch())
        return super().__iter__()


class KindTrainer(SFTTrainer):
    """SFTTrainer that learns the question the model will be asked: which of the kinds, not which of all tokens.

    The loss is the cross-entropy over the kinds of what `arms.scoring` computes. With small weights the model also
    learns to name a kind at all, and to write the rest of its label: so a program that lets it write gets the kind
    that is scored.

    Where memory runs out it goes down a ladder and repeats the step: in smaller micro-batches, with gradient
    checkpointing, with shorter texts. Its checkpoints are those of `qlora.checkpoints`.
    """

    def __init__(self, *arguments, prompt: Prompt, recipe: Recipe, precision: Precision, base_digest: str, **options):
        super().__init__(*arguments, **options)
        self.prompt, self.recipe, self.precision, self.base_digest = prompt, recipe, precision, base_digest
        self.training_log = TrainingLog(Path(self.args.output_dir) / "log.jsonl")
        if self.is_world_process_zero():
            self.add_callback(self.training_log)
        answers = [torch.tensor(answer) for answer in prompt.answers.values()]
        self.answers = pad_sequence(answers, batch_first=True, padding_value=PADDING).to(self.args.device)
        self.tokens = recipe.micro_batch_tokens
        self.note_budget = prompt.note_budget
        self.validation_pieces = Pieces(self.args.per_device_eval_batch_size)
        self.rungs: list[str] = []  # what was given up for lack of memory, in order
        self.finished = False  # by an earlier session; then only the best adapter is loaded

    @property
    def fingerprint(self) -> dict:
        """Everything that a checkpoint depends on; a training resumes from checkpoints of its own fingerprint only."""
        rows = [[list(row.values()) for row in rows] for rows in (self.train_dataset, self.eval_dataset)]
        return {
            "recipe": {name: value for name, value in asdict(self.recipe).items() if name not in WITHOUT_EFFECT},
            "precision": f"{self.precision.name} on {self.args.device.type}",
            "prompt": self.prompt.digest,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "base": self.base_digest,
            "notes": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
            "format": 3,  # of a checkpoint's files
        }

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean nats of the kind among the kinds, and by their weights those of any kind and of the label's spelling."""
        kinds, answers = inputs["labels"], self.answers[inputs["labels"]]
        starts = answers[:, :-1].clamp_min(0).tolist()
        notes = list(zip(inputs["prompts"], starts, strict=True))

        def logits_of(notes: list[tuple[torch.Tensor, list[int]]]) -> torch.Tensor:
            """(notes, longest answer, vocabulary): what follows the prompt, and each token of the answer."""
            rows = [self.prompt.cut(ids.tolist(), self.note_budget) + start for ids, start in notes]
            return next_token_logits(model, rows, self.prompt.longest_answer, use_cache=False)

        if model.training or self.is_distributed_loading_by_transformers:  # then all make the same passes
            logits = logits_of(notes)
        else:
            logits = torch.cat(self.validation_pieces.each(logits_of, notes))
        first, rest = logits[:, 0], logits[:, 1:].transpose(1, 2)
        scores = first[:, self.answers[:, 0]]
        which = cross_entropy(scores, kinds, reduction="sum")
        any_kind = (first.logsumexp(dim=-1) - scores.logsumexp(dim=-1)).sum()
        spelling = cross_entropy(rest, answers[:, 1:], ignore_index=PADDING, reduction="sum")
        # The Trainer counts the notes of all processes, whose gradients are averaged afterwards.
        share = len(kinds) if num_items_in_batch is None else num_items_in_batch / self.args.world_size
        loss = (which + ANY_KIND_WEIGHT * any_kind + SPELLING_WEIGHT * spelling) / share
        return (loss, SequenceClassifierOutput(loss, scores)) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward passes of an optimizer step, made again with less where memory runs out."""
        while True:
            batches = self._split(inputs["prompts"])
            try:
                return sum(self._learn(model, inputs, batch, num_items_in_batch) for batch in batches)
            except Exception as error:
                if self.args.world_size > 1 or not is_out_of_memory(error) or not self._descend(inputs["prompts"]):
                    raise
                release_memory(error)
            model.zero_grad()  # the failed attempt has left part of its gradients

    def _split(self, notes: list[torch.Tensor]) -> list[list[int]]:
        """The positions of each micro-batch's notes; as many micro-batches in every process that shares the step."""
        batches = micro_batches(self.widths(notes), self.tokens)
        most = int(self.accelerator.gather(torch.tensor([len(batches)], device=self.args.device)).max())
        while len(batches) < most:
            largest = max(batches, key=len)
            batches.append(largest[len(largest) // 2 :])
            del largest[len(largest) // 2 :]
        return batches

    def widths(self, notes: Sequence[Sequence[int]]) -> list[int]:
        """Compute the tokens that each prompt, given as ids, takes in a pass, with its answer and padding."""
        around, answer = len(self.prompt.before_ids + self.prompt.after_ids), self.prompt.longest_answer - 1
        return [padded(min(len(note), around + self.note_budget) + answer) for note in notes]

    def _learn(self, model, inputs: dict, batch: list[int], count: int) -> torch.Tensor:
        notes = {"prompts": [inputs["prompts"][position] for position in batch], "labels": inputs["labels"][batch]}
        return super().training_step(model, notes, count)

    def _descend(self, notes: list[torch.Tensor]) -> bool:
        """Give up something for memory; False where nothing is left to give up."""
        longest = max(self.widths(notes))
        if len(notes) > 1 and self.tokens >= 2 * longest:
            self.tokens = min(self.tokens, longest * len(notes)) // 2
            rung = f"micro_batch_tokens={self.tokens}"
        elif not self.model.is_activation_checkpointing:
            self.checkpoint_activations()
            rung = "gradient_checkpointing=true"
        elif self.note_budget > MIN_NOTE_TOKENS:
            self.note_budget = max(MIN_NOTE_TOKENS, int(SHORTENING * self.note_budget))
            rung = f"{self.note_budget} tokens a note"
        else:
            return False
        self.rungs.append(rung)
        if self.is_in_train:
            self.training_log.write(self.state, rung=rung)
        return True

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass from now on."""
        self.model.enable_input_require_grads()
        self.model.activation_checkpointing_enable()

    def _get_train_sampler(self, train_dataset=None):
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        return ByLength(lengths, self.recipe.effective_batch, self.args.seed, lambda: int(self.state.epoch or 0))

    def _save_checkpoint(self, model, trial):
        """Replace the Trainer's, which pickles, and is not written atomically."""
        if self.args.should_save:
            self._write_checkpoint()
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self) -> None:
        training = Path(self.args.output_dir)
        folder = checkpoints.checkpoint_path(training, self.state.global_step)
        checkpoints.discard(folder)
        self.save_adapter(folder)
        scaler = self.accelerator.scaler
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "random": random_state(),
            "ladder": (self.tokens, self.note_budget, self.rungs, self.model.is_activation_checkpointing),
        }
        write_state(folder, state)
        self.state.save_to_json(str(folder / "trainer_state.json"))
        checkpoints.seal(folder)
        best = checkpoints.checkpoint_path(training, self.state.best_global_step or self.state.global_step)
        for other in set(checkpoints.list_checkpoints(training).values()) - {folder, best}:
            checkpoints.discard(other)

    def _finalize_training(self, *arguments):
        """Name the best checkpoint only now: a run folder may be moved, so checkpoints hold its step, not its path."""
        if self.state.best_global_step:
            best = checkpoints.checkpoint_path(Path(self.args.output_dir), self.state.best_global_step)
            self.state.best_model_checkpoint = str(best)
        return super()._finalize_training(*arguments)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            state = read_state(Path(checkpoint))
            optimizer = state["optimizer"]
            numbered = {int(number): weight for number, weight in optimizer["state"].items()}
            self.optimizer.load_state_dict(optimizer | {"state": numbered})
            self.lr_scheduler.load_state_dict(state["schedule"])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.tokens, self.note_budget, self.rungs, checkpointing = state["ladder"]
            if checkpointing and not self.model.is_activation_checkpointing:
                self.checkpoint_activations()

    def _load_rng_state(self, checkpoint):
        if checkpoint is not None:
            set_random_state(read_state(Path(checkpoint))["random"])

    def _run_epoch(self, *arguments, **options):
        if self.finished or self.state.global_step >= self.state.max_steps:  # resumed after its last step
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)

    def save_adapter(self, folder: Path) -> None:
        """Write the LoRA weights as safetensors."""
        self.accelerator.unwrap_model(self.model).save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form


def trainer_arguments(recipe: Recipe, precision: Precision, notes: int, folder: Path) -> SFTConfig:
    """Translate a recipe for so many training notes into the Trainer's arguments; its output goes to `folder`."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = os.environ["WANDB_DIR"] = str(folder / "reports")
    os.environ["WANDB_MODE"] = "online" if recipe.allow_upload else "offline"
    # W&B gets figures, not what is printed.
    os.environ.update(WANDB_ERROR_REPORTING="false", WANDB_SILENT="true", WANDB_CONSOLE="off")
    on_cpu = precision.device == "cpu"
    steps = math.ceil(math.ceil(notes / recipe.effective_batch) * recipe.epochs)
    between = math.ceil(steps / recipe.evaluations)
    device = {"bf16": precision.bf16, "fp16": precision.fp16, "use_cpu": on_cpu, "dataloader_pin_memory": not on_cpu}
    rate = {"learning_rate": recipe.learning_rate, "lr_scheduler_type": "cosine", "warmup_steps": round(WARMUP * steps)}
    passes = {"eval_strategy": "steps", "eval_steps": between, "save_steps": between, "load_best_model_at_end": True}
    # The Trainer would hide a loss that is not finite.
    logs = {"logging_steps": 1, "logging_nan_inf_filter": False, "disable_tqdm": True, "report_to": recipe.report_to}
    arguments = SFTConfig(
        **(device | rate | passes | logs),
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=notes_a_process(recipe.effective_batch),  # `_split` makes micro-batches of them
        # Not the micro-batch: the choice of the best adapter must not depend on the memory at hand.
        per_device_eval_batch_size=recipe.effective_batch,
        gradient_checkpointing=recipe.gradient_checkpointing,
        optim="adamw_torch" if on_cpu else "paged_adamw_8bit",
        # Inputs are made by Prompt: TRL would cut the answer, not the note.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        train_sampling_strategy="group_by_length",  # of the validation notes, too
        metric_for_best_model="eval_macro_f1",
        ddp_find_unused_parameters=False,
        seed=recipe.seed,
    )
    # A process works on one card even where it sees several: TRL would refuse, and the Trainer split the batches.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
