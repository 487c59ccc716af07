"""What only a CUDA card can show."""

import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from onelap.memory import cap_memory
from onelap.models import load_base, load_tokenizer
from onelap.precision import choose_precision
from onelap.prompts import build_prompt
from onelap.training import add_lora, prepare_trainer, train
from tests.conftest import TOY_RECIPE, TOY_WORDS, toy_notes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]


def test_the_published_failure_of_fp16_and_that_it_is_gone(toy_base, tmp_path):
    """SFTTrainer makes LoRA matrices bfloat16, on which the gradient scaler dies at the first step."""
    precision, notes = choose_precision("fp16"), pd.DataFrame(toy_notes(24))
    prompt = build_prompt(load_tokenizer(toy_base), sorted(TOY_WORDS), 160)
    rows = [{"input_ids": prompt.encode(text) + prompt.answers[kind]} for text, kind in notes[["text", "kind"]].values]
    arguments = SFTConfig(output_dir=str(tmp_path), max_steps=1, fp16=True, bf16=False, report_to="none")
    model = add_lora(load_base(toy_base, precision), TOY_RECIPE)
    published = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=prompt.tokenizer)
    with pytest.raises((RuntimeError, NotImplementedError), match="BFloat16"):
        published.train()
    ours = prepare_trainer(toy_base, prompt, precision, TOY_RECIPE, notes[:16], notes[16:], tmp_path / "ours")
    log = train(ours, tmp_path / "adapter", 600)
    assert ours.precision == precision and log["loss"].notna().sum() == 2


def test_memory_is_capped_below_what_is_free():
    cap_memory("cuda:0")
    free, total = torch.cuda.mem_get_info()
    assert torch.cuda.get_per_process_memory_fraction() * total < free + torch.cuda.memory_reserved()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(free, dtype=torch.uint8, device="cuda")
