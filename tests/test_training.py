"""QLoRA on the real libraries: what is quantized, what is trained, and on which tokens."""

import shutil
from dataclasses import replace

import bitsandbytes
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import sdpa_attention

from onelap import UserError
from onelap.arms.base import load_adapter, load_base, load_tokenizer
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import load_finite_base, score
from onelap.lap.reload import check_answers, write_answers
from onelap.lap.run import Run
from onelap.machine.precision import Precision, bfloat16_gain, check_formats, choose_precision
from onelap.machine.store import read_lines
from onelap.qlora.plan import measure, workload_of
from onelap.qlora.recipe import micro_batches, notes_a_process
from onelap.qlora.trainer import ANY_KIND_WEIGHT, SPELLING_WEIGHT
from onelap.qlora.training import TARGETS, prepare_trainer, train
from tests.conftest import TOY_RECIPE, TOY_WORDS, toy_notes

KINDS = sorted(TOY_WORDS)
SIXTEEN_BITS = Precision("cpu", torch.bfloat16, bf16=True, fp16=False, why="as on a card")


@pytest.fixture
def training(toy_base, tmp_path):
    """A trainer of three steps, its prompt and its run."""
    run = Run.open(tmp_path / "run")
    notes = pd.DataFrame(toy_notes(36)).assign(id=[str(number) for number in range(36)])
    notes["part"] = ["train"] * 20 + ["validation"] * 8 + ["test"] * 8
    run.write_dataset(notes, {"kinds": KINDS})
    prompt = build_prompt(load_tokenizer(toy_base), KINDS, 160)
    return (
        prepare_trainer(toy_base, prompt, choose_precision("fp32"), TOY_RECIPE, *parts_of(run), run.training_path),
        prompt,
        run,
    )


def parts_of(run):
    return run.read_part("train"), run.read_part("validation")


def batch_of(trainer):
    return next(iter(trainer.get_train_dataloader()))


def lora_parameters(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_lora_matrices_of_the_seven_layers_are_trained_in_float32(training):
    trainer, _, _ = training
    trained = lora_parameters(trainer.model)
    assert len(trained) == 2 * len(TARGETS) * 2  # A and B, seven layers, two blocks
    assert all("lora_" in name and any(target in name for target in TARGETS) for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}


def test_base_is_in_nf4_with_double_quantization(toy_base):
    model = load_base(toy_base, choose_precision("fp32"), unpacked=False)
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested


def test_gradients_reach_every_lora_matrix_after_a_validation_pass(training):
    """On CPUs with AVX512-BF16, a forward pass in eval mode can switch the backward pass off."""
    trainer, prompt, _ = training
    # B starts at zero, and then A gets no gradient: move it first.
    for name, parameter in lora_parameters(trainer.model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    trainer.evaluate()
    score(trainer.model, prompt, ["some note", "another one"], batch_size=2)
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch_of(trainer)).backward()
    for name, parameter in lora_parameters(trainer.model).items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_loss_is_that_of_the_scored_kinds_of_any_kind_and_of_spelling(training):
    trainer, prompt, run = training
    notes = run.read_part("validation")
    log_p = np.log(score(trainer.model, prompt, notes["text"].tolist(), 4)[0])
    log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    columns = [KINDS.index(kind) for kind in notes["kind"]]
    expected = -log_p[range(len(notes)), columns].mean()
    others = np.mean([other_losses(trainer.model, prompt, *note) for note in notes[["text", "kind"]].values], axis=0)
    expected += others @ [ANY_KIND_WEIGHT, SPELLING_WEIGHT]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def other_losses(model, prompt, text, kind):
    """Nats of beginning with any kind, and of each further token of this one, read one after the other."""
    ids, (first, *rest) = prompt.encode(text), prompt.answers[kind]
    chances = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    any_kind = -chances[list(prompt.answer_tokens.values())].sum().log().item()
    ids.append(first)
    spelling = 0.0
    for token in rest:
        spelling -= model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item()
        ids.append(token)
    return any_kind, spelling


def test_micro_batches_do_not_change_the_loss(training, toy_base, tmp_path):
    """20 notes in batches of 6 leave a last batch of 2."""
    _, prompt, run = training

    def losses(tokens):
        recipe = replace(TOY_RECIPE, micro_batch_tokens=tokens, effective_batch=6, lora_dropout=0.0)
        folder, precision = tmp_path / str(tokens), choose_precision("fp32")
        trainer = prepare_trainer(toy_base, prompt, precision, recipe, *parts_of(run), folder)
        passes = []
        trainer.model.register_forward_pre_hook(lambda *_: passes.append(1))
        return train(trainer, folder / "adapter", 600)["loss"].dropna().to_numpy(), len(passes)

    (whole, few), (split, many) = losses(5000), losses(250)
    assert many > few + 4
    np.testing.assert_allclose(split, whole, rtol=1e-3)


def test_processes_make_as_many_micro_batches_each(training, monkeypatch):
    """The other one has notes that need four."""
    trainer, *_ = training
    monkeypatch.setattr(trainer.accelerator, "gather", lambda mine: torch.cat([mine, torch.tensor([4])]))
    batches = trainer._split([torch.zeros(60)] * 5)
    assert len(batches) == 4 and all(batches)
    assert sorted(position for batch in batches for position in batch) == [0, 1, 2, 3, 4]


def test_micro_batches_hold_as_many_notes_as_fit_with_padding():
    assert micro_batches([10, 40, 20, 30, 12], 60) == [[1], [3, 2], [4, 0]]
    assert micro_batches([10, 40, 20], 1000) == [[1, 2, 0]]
    assert micro_batches([90, 10], 60) == [[0], [1]], "a note that is longer is alone"
    assert micro_batches([], 60) == []


def test_gradient_checkpointing_computes_a_block_twice_and_gives_the_same_loss_and_gradients(training):
    trainer, _, _ = training
    batch, passes = batch_of(trainer), []
    trainer.model.base_model.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))

    def loss_and_gradients():
        passes.clear()
        trainer.model.zero_grad()
        trainer.model.train()
        torch.manual_seed(0)  # of the dropout
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in lora_parameters(trainer.model).items()}
        return len(passes), {"loss": loss.detach()} | gradients

    once, plain = loss_and_gradients()
    trainer.checkpoint_activations()
    twice, recomputed = loss_and_gradients()
    assert (once, twice) == (1, 2)
    assert any(tensor.abs().sum() > 0 for name, tensor in plain.items() if name != "loss")
    torch.testing.assert_close(recomputed, plain)


def test_model_that_overflows_ends_scoring_and_training(training):
    trainer, prompt, run = training
    trainer.model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="numbers that are not finite"):
        score(trainer.model, prompt, ["some note"], batch_size=1)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 1"):
        train(trainer, run.adapter_path, 600)


def test_training_learns_and_its_saved_adapter_gives_the_same_probabilities(training, toy_base):
    trainer, prompt, run = training
    log = train(trainer, run.adapter_path, 600)
    steps = log.dropna(subset=["loss"])
    assert list(steps["step"]) == [1, 2, 3]
    assert {"learning_rate", "step_seconds", "memory_gb", "gradient_norm"} <= set(log.columns)
    losses = log["validation_loss"].dropna()
    assert trainer.state.best_metric == pytest.approx(log["validation_macro_f1"].max())
    assert losses.iloc[-1] < losses.iloc[0]
    texts = run.read_part("test")["text"].tolist()
    trained, _ = score(trainer.model, prompt, texts, 4)
    reloaded = load_adapter(load_base(toy_base, choose_precision("fp32")), run.adapter_path)
    assert abs(score(reloaded, prompt, texts, 4)[0] - trained).max() < 1e-5


def test_same_seed_gives_the_same_predictions_and_another_seed_others(training, toy_base, tmp_path):
    """Two trainings on one machine, with the same parameters and data, predict identical probabilities."""
    _, prompt, run = training
    texts = run.read_part("test")["text"].tolist()

    def predictions(seed):
        recipe, precision = replace(TOY_RECIPE, seed=seed), choose_precision()
        folder = tmp_path / f"{seed} {len(list(tmp_path.iterdir()))}"
        train(prepare_trainer(toy_base, prompt, precision, recipe, *parts_of(run), folder), folder / "adapter", 600)
        return score(load_adapter(load_base(toy_base, precision), folder / "adapter"), prompt, texts, 4)[0]

    first = predictions(0)
    np.testing.assert_array_equal(predictions(0), first)
    assert np.abs(predictions(1) - first).max() > 0


def test_adapter_that_differs_from_the_trained_model_is_refused(training, toy_base, tmp_path):
    trainer, prompt, run = training
    texts = run.read_part("validation")["text"].tolist()
    write_answers(trainer.model, prompt, texts, tmp_path / "answers.json")
    assert check_answers(trainer.model, prompt, texts, tmp_path / "answers.json") < 1e-6
    for name, parameter in lora_parameters(trainer.model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    with pytest.raises(UserError, match="the adapter loaded from disk differs from the one that was trained by"):
        check_answers(trainer.model, prompt, texts, tmp_path / "answers.json")


def test_adapter_on_disk_answers_as_the_trained_model_in_16_bits(toy_base, training, tmp_path):
    """As on a card: the Trainer leaves the model that it has trained in autocast, in which a loaded one is not."""
    _, prompt, run = training
    recipe = replace(TOY_RECIPE, learning_rate=3e-2, epochs=3.0)
    trainer = prepare_trainer(toy_base, prompt, SIXTEEN_BITS, recipe, *parts_of(run), tmp_path / "t")
    train(trainer, tmp_path / "adapter", 600)
    texts = run.read_part("test")["text"].tolist()
    write_answers(trainer.model, prompt, texts, tmp_path / "answers.json")
    model = load_adapter(load_base(toy_base, SIXTEEN_BITS), tmp_path / "adapter")
    assert model.dtype == torch.bfloat16 and check_answers(model, prompt, texts, tmp_path / "answers.json") < 1e-6


def test_batch_that_processes_cannot_share_evenly_is_refused(monkeypatch):
    assert notes_a_process(8) == 8
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert notes_a_process(8) == 2
    with pytest.raises(UserError, match="effective_batch: expected a multiple of 4 processes, found 6"):
        notes_a_process(6)


def test_damaged_json_lines_are_one_clear_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "a"}\n{"id": ', encoding="utf-8")
    with pytest.raises(UserError, match="expected JSON lines, but reading failed"):
        read_lines(path)


def test_spent_budget_ends_training_with_a_validated_adapter(training):
    trainer, _, run = training
    log = train(trainer, run.adapter_path, 0)
    assert trainer.state.global_step == 1 < trainer.state.max_steps
    assert len(log["validation_macro_f1"].dropna()) == 1
    assert (run.adapter_path / "adapter_model.safetensors").exists()


def test_measure_changes_no_weight_and_no_random_number(training):
    trainer, _, _ = training
    before = {name: weight.detach().clone() for name, weight in lora_parameters(trainer.model).items()}
    state = torch.get_rng_state()
    step, forward = measure(trainer)
    for pace in (step, forward):
        assert pace.batch >= 0 and pace.token >= 0 and pace.seconds(1, 100) > 0
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in lora_parameters(trainer.model).items():
        assert weight.grad is None and torch.equal(weight, before[name])
    longest = max(len(row["input_ids"]) for row in trainer.train_dataset)
    assert longest < workload_of(trainer).longest <= TOY_RECIPE.micro_batch_tokens


def test_number_formats_that_fail_on_a_turing_card_are_refused_before_the_first_step(training):
    trainer, _, _ = training
    turing = Precision("cuda:0", torch.float16, bf16=False, fp16=True, why="compute capability 7.5")
    check_formats(trainer.model, turing)
    name, parameter = next(iter(lora_parameters(trainer.model).items()))
    parameter.data = parameter.data.half()
    with pytest.raises(TypeError, match=f"{name} is trained in torch.float16"):
        check_formats(trainer.model, turing)
    parameter.data = parameter.data.bfloat16()
    with pytest.raises(TypeError, match=f"{name} is bfloat16, expected none on a card without it"):
        check_formats(trainer.model, turing)


@pytest.fixture
def wide_base(toy_base, tmp_path):
    """A base whose activations fit into float32, but not into float16."""
    folder = shutil.copytree(toy_base, tmp_path / "wide")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


NARROW = Precision("cpu", torch.float16, bf16=False, fp16=False, why="so that activations overflow")


def test_training_falls_back_to_float32_where_probe_steps_are_not_finite(wide_base, training, tmp_path, capsys):
    _, prompt, run = training
    trainer = prepare_trainer(wide_base, prompt, NARROW, TOY_RECIPE, *parts_of(run), tmp_path / "t")
    assert trainer.precision == NARROW.safe and trainer.precision.choice == "fp32"
    assert "not finite in float16: training in float32 instead" in capsys.readouterr().out
    assert np.isfinite(train(trainer, tmp_path / "a", 600)["loss"].dropna()).all()


def test_scoring_falls_back_to_float32_where_scores_are_not_finite(wide_base, training, capsys):
    _, prompt, _ = training
    model = load_finite_base(wide_base, NARROW, prompt, ["some note", "another one"])
    assert model.dtype == torch.float32 and "Scores are not finite in float16" in capsys.readouterr().out
    assert np.isfinite(score(model, prompt, ["some note"], 1)[0]).all()


def test_base_that_is_not_finite_in_float32_is_refused(toy_base, training, tmp_path):
    _, prompt, run = training
    folder = shutil.copytree(toy_base, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match="not finite before the first step, in float32"):
        prepare_trainer(folder, prompt, choose_precision(), TOY_RECIPE, *parts_of(run), tmp_path / "t")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card has other formats")
@pytest.mark.parametrize("gain", [0.5, 1.1, 1.8, 5.7])
def test_cpu_computes_in_bfloat16_where_that_is_measured_to_be_faster(monkeypatch, gain):
    monkeypatch.setattr("onelap.machine.precision.bfloat16_gain", lambda: gain)
    assert choose_precision().choice == ("bf16" if gain > 1.3 else "fp32")
    assert choose_precision("fp32").compute == torch.float32 and choose_precision("bf16").compute == torch.bfloat16
    with pytest.raises(UserError, match=r"precision: expected auto, bf16 or fp32 on a CPU, found fp16"):
        choose_precision("fp16")


def test_gain_of_bfloat16_is_measured():
    assert 0.01 < bfloat16_gain() < 100


@pytest.mark.parametrize(
    ("capability", "choice", "kernel"),
    [((8, 0), "auto", "flash"), ((8, 0), "fp32", "memory-efficient"), ((7, 5), "auto", "memory-efficient")],
)
def test_attention_takes_the_fastest_kernel_of_the_card(monkeypatch, toy_base, capability, choice, kernel):
    """Without flash, PyTorch takes its slowest kernel for grouped heads, so keys and values must be repeated."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    precision = choose_precision(choice)
    assert {row["what"]: row["format"] for row in precision.formats}["attention"] == kernel
    monkeypatch.undo()
    groups = []
    monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", sdpa_attention.use_gqa_in_sdpa)  # so that it is restored
    on_cpu = replace(precision, device="cpu", compute=torch.float32)
    monkeypatch.setattr(Precision, "has_flash_attention", kernel == "flash")
    model = load_base(toy_base, on_cpu)
    attend = torch.nn.functional.scaled_dot_product_attention

    def watch(*tensors, enable_gqa=False, **options):
        groups.append(enable_gqa)
        assert options["attn_mask"] is None and options["is_causal"]
        return attend(*tensors, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert groups == [kernel == "flash"] * 2


@pytest.mark.parametrize(
    ("capability", "choice"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((12, 0), "bf16")]
)
def test_precision_follows_from_the_compute_capability(monkeypatch, capability, choice):
    """The answers of a driver stand in for cards that are not here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    assert choose_precision().choice == choice
    assert choose_precision("fp16").fp16 and choose_precision("fp32").compute == torch.float32
    if capability < (8, 0):
        with pytest.raises(UserError, match=r"bf16 needs compute capability 8.0, found a card, compute capability 7.5"):
            choose_precision("bf16")


def test_processes_on_unlike_cards_need_an_explicit_precision(monkeypatch):
    capabilities = {0: (8, 9), 1: (7, 5), "cuda:0": (8, 9), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_name", str)
    assert choose_precision().choice == "bf16"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_precision("fp16").choice == "fp16"
        with pytest.raises(
            UserError, match="these cards would take bf16 and fp16; begin the run with -p precision=fp16"
        ):
            choose_precision()
