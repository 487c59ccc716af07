"""Tests that need a CUDA card."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from onelap.arms.base import load_adapter, load_base, load_tokenizer
from onelap.arms.prompts import build_prompt
from onelap.lap.reload import MAX_DIFFERENCE, check_answers, write_answers
from onelap.machine.memory import cap_memory
from onelap.machine.precision import choose_precision
from onelap.qlora.plan import measure
from onelap.qlora.training import add_lora, prepare_trainer, train
from tests.conftest import TOY_RECIPE, TOY_WORDS, toy_notes
from tests.test_checkpoints import train_until

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]

# Matrices of rank 64 are large enough for an optimizer in 8 bits.
RECIPE = replace(TOY_RECIPE, epochs=4.0, micro_batch_tokens=2000, lora_rank=64, checkpoint_minutes=0.0)
NOTES = pd.DataFrame(toy_notes(48))


@pytest.fixture
def prompt(toy_base):
    return build_prompt(load_tokenizer(toy_base), sorted(TOY_WORDS), 160)


@pytest.fixture
def make(toy_base, prompt, tmp_path):
    """A function that makes a trainer of 20 steps on the card."""

    def build(choice="auto", folder="training", **changes):
        precision, recipe = choose_precision(choice), replace(RECIPE, **changes)
        return prepare_trainer(toy_base, prompt, precision, recipe, NOTES[:40], NOTES[40:], tmp_path / folder)

    return build


def has_learnt(trainer):
    """Tell whether LoRA's B has left zero, where it stays if the gradient scaler skips every step."""
    return any(bool(weight.any()) for name, weight in trainer.model.named_parameters() if "lora_B" in name)


def test_fp16_training_works_where_the_published_attempt_fails(toy_base, prompt, make, tmp_path):
    """SFTTrainer makes LoRA matrices bfloat16, on which the gradient scaler fails at the first step."""
    texts = NOTES[["text", "kind"]].to_numpy()
    rows = [{"input_ids": prompt.encode(text) + prompt.answers[kind]} for text, kind in texts]
    arguments = SFTConfig(output_dir=str(tmp_path), max_steps=1, fp16=True, bf16=False, report_to="none")
    model = add_lora(load_base(toy_base, choose_precision("fp16")), RECIPE)
    published = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=prompt.tokenizer)
    with pytest.raises((RuntimeError, NotImplementedError), match="BFloat16"):
        published.train()
    ours = make("fp16")
    log = train(ours, tmp_path / "adapter", 600)
    assert ours.precision == choose_precision("fp16") and log["loss"].notna().sum() == 20 and has_learnt(ours)


@pytest.mark.parametrize("choice", ["fp16", "auto", "fp32"])
def test_adapter_on_disk_answers_as_the_trained_model(toy_base, prompt, make, tmp_path, choice):
    trainer, texts = make(choice), NOTES["text"].tolist()
    train(trainer, tmp_path / "adapter", 600)
    write_answers(trainer.model, prompt, texts, tmp_path / "answers.json")
    model = load_adapter(load_base(toy_base, trainer.precision), tmp_path / "adapter")
    difference = check_answers(model, prompt, texts, tmp_path / "answers.json")
    assert difference <= MAX_DIFFERENCE[model.dtype] and has_learnt(trainer)


def test_training_resumes_with_its_optimizer_in_8_bits(make, tmp_path):
    train_until(6, make(), tmp_path / "adapter")
    resumed, whole = make(), make(folder="whole")
    log, expected = train(resumed, tmp_path / "adapter", 600), train(whole, tmp_path / "other", 600)
    assert resumed.state.global_step == whole.state.global_step == 20
    # Some kernels add in another order every time.
    pd.testing.assert_series_equal(log["loss"].dropna(), expected["loss"].dropna(), rtol=0.02, check_index=False)


def test_lack_of_gpu_memory_leads_to_smaller_settings(make, tmp_path):
    trainer = make()
    measure(trainer)
    needed = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + needed) / 2 / total)
    try:
        train(trainer, tmp_path / "adapter", 600)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.rungs and trainer.state.global_step == 20 and has_learnt(trainer)


def test_memory_is_capped_below_what_is_free():
    cap_memory("cuda:0")
    free, total = torch.cuda.mem_get_info()
    assert torch.cuda.get_per_process_memory_fraction() * total < free + torch.cuda.memory_reserved()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(free, dtype=torch.uint8, device="cuda")
