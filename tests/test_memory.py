"""Training and scoring when memory runs out: what becomes smaller, and what stays as it was."""

import re
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch

from onelap.arms.base import load_base, load_tokenizer
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import score
from onelap.machine.memory import PeakMemory, Pieces, is_out_of_memory, peak_memory_gb
from onelap.machine.precision import choose_precision
from onelap.qlora.plan import measure
from onelap.qlora.training import learns_finitely, prepare_trainer, train
from tests.conftest import TOY_RECIPE, TOY_WORDS, toy_notes

NOTES = pd.DataFrame(toy_notes(48))


class SmallGpu:
    """Fails as a GPU does when a forward pass has more tokens than fit its memory."""

    def __init__(self, model, tokens, with_checkpointing=None):
        self.tokens, self.with_checkpointing = tokens, with_checkpointing or tokens
        self.model = model
        model.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, _, arguments, options):
        allowed = self.with_checkpointing if self.model.is_activation_checkpointing else self.tokens
        if options["input_ids"].numel() > allowed:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


@pytest.fixture
def prompt(toy_base):
    return build_prompt(load_tokenizer(toy_base), sorted(TOY_WORDS), 160)


@pytest.fixture
def make(toy_base, tmp_path, prompt):
    def build(folder, **changes):
        recipe = replace(TOY_RECIPE, lora_dropout=0.0, micro_batch_tokens=5000, evaluations=1, **changes)
        train_notes, validation = NOTES[:40], NOTES[40:]
        return prepare_trainer(
            toy_base, prompt, choose_precision("fp32"), recipe, train_notes, validation, tmp_path / folder
        )

    return build


def longest(trainer):
    return max(len(row["input_ids"]) for row in trainer.train_dataset) + trainer.prompt.longest_answer - 1


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.named_parameters() if tensor.requires_grad}


@pytest.mark.parametrize("effective_batch", [8, 16])
def test_smaller_micro_batches_learn_the_same_and_are_logged(make, tmp_path, effective_batch):
    plain, narrow = make("plain", effective_batch=effective_batch), make("narrow", effective_batch=effective_batch)
    SmallGpu(narrow.model, 3 * longest(narrow))
    expected, log = train(plain, tmp_path / "a", 600), train(narrow, tmp_path / "b", 600)
    assert len(narrow.rungs) > 1 and all(re.fullmatch(r"micro_batch_tokens=\d+", rung) for rung in narrow.rungs)
    assert longest(narrow) <= narrow.tokens <= 3 * longest(narrow)
    assert list(log["rung"].dropna()) == narrow.rungs
    np.testing.assert_allclose(log["loss"].dropna(), expected["loss"].dropna(), rtol=1e-4)
    assert narrow.state.global_step == plain.state.global_step == len(log["loss"].dropna())
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(narrow)[name], tensor, rtol=1e-3, atol=1e-4)


def test_out_of_memory_in_backward_pass_counts_no_gradient_twice(make):
    """The failed attempt leaves gradients in the later blocks."""
    trainer = make("t")
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(8)]))

    def gradients():
        trainer.training_step(trainer.model, batch, 8)
        named = trainer.model.named_parameters()
        result = {name: weight.grad.clone() for name, weight in named if weight.requires_grad}
        trainer.model.zero_grad()
        return result

    def fail_once(module, *_):
        handle.remove()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    expected = gradients()
    # Fails in the backward pass, at the first block.
    handle = trainer.model.base_model.model.model.layers[0].mlp.register_full_backward_hook(fail_once)
    actual = gradients()
    assert trainer.rungs == [f"micro_batch_tokens={trainer.tokens}"]
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6)


def test_ladder_shortens_texts_last_and_then_raises(make, tmp_path):
    trainer = make("t")
    SmallGpu(trainer.model, longest(trainer) - 40, longest(trainer) - 10)
    train(trainer, tmp_path / "a", 600)
    rungs = trainer.rungs
    above = rungs.index("gradient_checkpointing=true")
    assert above > 1 and all(rung.startswith("micro_batch_tokens=") for rung in rungs[:above])
    below = rungs[above + 1 :]
    assert len(below) > 1 and all(re.fullmatch(r"\d+ tokens a note", rung) for rung in below)
    assert trainer.state.global_step == trainer.state.max_steps == 5
    hopeless = make("hopeless")
    SmallGpu(hopeless.model, 10)
    with pytest.raises(torch.OutOfMemoryError):
        train(hopeless, tmp_path / "b", 600)
    assert "16 tokens a note" in hopeless.rungs


def test_recipe_with_gradient_checkpointing_measures_with_it_too(make):
    trainer = make("t", gradient_checkpointing=True)
    SmallGpu(trainer.model, 10, with_checkpointing=8 * longest(trainer))
    measure(trainer)
    assert trainer.rungs == []


def test_processes_that_share_a_base_stop_when_memory_runs_out(make):
    """They would wait for each other: the number and order of their forward passes must be the same."""
    trainer = make("t")
    trainer.is_distributed_loading_by_transformers = True
    SmallGpu(trainer.model, 10)
    with pytest.raises(torch.OutOfMemoryError):
        learns_finitely(trainer)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.compute_loss(trainer.model.eval(), trainer.data_collator(list(trainer.eval_dataset)[:4]))


def test_scoring_continues_in_smaller_batches(toy_base, prompt):
    model = load_base(toy_base, choose_precision("fp32"))
    texts = [note["text"] for note in toy_notes(20)]
    expected, _ = score(model, prompt, texts, 8)
    SmallGpu(model, 250)
    np.testing.assert_allclose(score(model, prompt, texts, 8)[0], expected, atol=1e-4)


def test_pieces_raise_errors_that_are_not_about_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        Pieces(4).each(lambda piece: (_ for _ in ()).throw(RuntimeError("shapes do not match")), [1, 2])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_recognized_by_all_its_messages(error):
    assert is_out_of_memory(error)


def test_pieces_keep_their_order_and_stay_small():
    sizes = []

    def double(piece):
        sizes.append(len(piece))
        if len(piece) > 2:
            raise MemoryError
        return [2 * one for one in piece]

    pieces = Pieces(6)
    assert list(chain(*pieces.each(double, list(range(7))))) == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [6, 3, 2, 2, 2, 1] and pieces.size == 2


def test_peak_memory_counts_this_process():
    before = peak_memory_gb()
    block = torch.ones(60_000_000)  # 0.24 GB
    assert peak_memory_gb() >= before and peak_memory_gb() > 0.24
    del block


def test_peak_of_a_block_does_not_count_earlier_or_later_blocks():
    with PeakMemory() as before:
        pass
    with PeakMemory() as during:
        block = np.ones(50_000_000)  # 0.4 GB
        time.sleep(0.1)
        del block
    with PeakMemory() as after:
        time.sleep(0.05)
    assert during.gb["process"] - before.gb["process"] == pytest.approx(0.4, abs=0.1)
    assert after.gb["process"] < during.gb["process"] - 0.2
    assert (during.gb["card"] is None) == (not torch.cuda.is_available())
