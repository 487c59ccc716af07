"""The plan before a training: what shapes, memory and time are predicted, and what is proposed to make it fit."""

import os
import re
import weakref
from dataclasses import replace

import bitsandbytes
import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from onelap import PROJECT, commands
from onelap.arms.base import load_base
from onelap.cli import parse
from onelap.lap.parameters import SET_BY_THE_RUNNER, read_parameters, read_schema
from onelap.lap.run import Run
from onelap.machine.precision import autocast, choose_precision
from onelap.qlora.plan import FRAGMENTATION, OVERHEAD, SHAPES, Forecast, Pace, Shape, Workload, memory, training_seconds
from onelap.qlora.training import TARGETS, add_lora
from tests.conftest import TOY_RECIPE
from tests.test_training import SIXTEEN_BITS

SETTING = {
    "max_length": 512, "epochs": 3.0, "micro_batch_tokens": 4096, "effective_batch": 8, "gradient_checkpointing": False,
    "lora_rank": 16, "lora_dropout": 0.05, "evaluations": 4, "time_budget_hours": 100.0,
}  # fmt: skip


def test_shape_counts_the_weights_of_the_real_model(toy_base):
    shape = Shape.read(toy_base)
    model = get_peft_model(
        load_base(toy_base, choose_precision(), unpacked=False), LoraConfig(r=4, target_modules=TARGETS)
    )
    quantized = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert shape.linear == sum(module.in_features * module.out_features for module in quantized)
    assert shape.adapter(4) == model.get_nb_trainable_parameters()[0]
    assert shape.vocabulary * shape.hidden == model.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", 3.09),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
        ("Qwen/Qwen3-4B-Instruct-2507", 4.02),
        ("Qwen/Qwen3-0.6B", 0.596),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.1345),
    ],
)
def test_stored_shape_has_the_published_number_of_weights(name, billions):
    shape = SHAPES[name]
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    assert (shape.linear + embeddings) / 1e9 == pytest.approx(billions, rel=0.005)


def test_checkpointing_and_smaller_batches_take_less_memory():
    shape = SHAPES["Qwen/Qwen2.5-3B-Instruct"]
    plain, recomputed, short = (
        sum(memory(shape, 16, 0.05, tokens, checkpointing, "cuda:0", 2).values())
        for tokens, checkpointing in ((4096, False), (4096, True), (512, False))
    )
    assert recomputed < short < plain
    without, with_dropout = (memory(shape, 16, p, 512, False, "cuda", 2)["activations"] for p in (0.0, 0.05))
    # A token and block: six inputs of width h and one of width I, masked at a byte a value; four copies in 16 bits.
    assert with_dropout - without == pytest.approx(512 * 36 * ((6 + 4 * 2) * 2048 + 11008) / 1e9)


# Heads of Qwen3 are wider than the hidden size over their number, and have norms of their own.
HEAD = {(Qwen2Config, Qwen2ForCausalLM): 64, (Qwen3Config, Qwen3ForCausalLM): 128}


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operations have made and something still refers to."""

    def __init__(self, model):
        super().__init__()
        self.bytes, self.storages = 0, {weight.untyped_storage()._cdata for weight in model.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.storages:
                storage = tensor.untyped_storage()
                self.storages.add(storage._cdata)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return result

    def gone(self, key, size):
        self.storages.discard(key)
        self.bytes -= size


def kept_for_the_backward_pass(folder, family, layers, dropout, checkpointing, precision):
    """Count the bytes a token that a forward pass over 128 tokens keeps; returns them and the model's shape."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 2}
    make_config, make_model = family
    make_model(make_config(vocab_size=512, num_hidden_layers=layers, head_dim=HEAD[family], **sizes)).save_pretrained(
        folder
    )
    model = add_lora(load_base(folder, precision, unpacked=False), replace(TOY_RECIPE, lora_dropout=dropout)).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    ids = torch.arange(128)[None]
    with Alive(model) as alive, autocast(model):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        assert logits.requires_grad
    return alive.bytes / 128, Shape.read(folder)


@pytest.mark.parametrize("family", HEAD, ids=["Qwen2", "Qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("width", [2, 4])
def test_block_keeps_as_many_bytes_as_predicted(tmp_path, monkeypatch, width, dropout, checkpointing, family):
    precision = choose_precision("fp32")
    if width == 2:  # as on a card, whose autocast PEFT asks for
        precision, enabled = SIXTEEN_BITS, torch.is_autocast_enabled
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: not device or enabled(*device))
    (few, shape), (many, deep) = (
        kept_for_the_backward_pass(tmp_path / str(layers), family, layers, dropout, checkpointing, precision)
        for layers in (2, 6)
    )
    low, high = (memory(one, 4, dropout, 1, checkpointing, "cpu", width)["activations"] for one in (shape, deep))
    predicted = round(1e9 * (high - low) / FRAGMENTATION["cpu"])  # whole bytes, as they are counted
    assert many - few == pytest.approx(predicted, rel=0.1)


def test_workload_pads_each_batch_to_its_longest_note():
    work = Workload.of([10, 40, 20, 30], [5, 7], batch=2, tokens=70)
    # Batches of 40 and 30, 20 and 10 tokens; the first one does not fit in a pass.
    assert (work.batches, work.tokens, work.longest, work.validation) == (3, 40 + 30 + 2 * 20, 40, (1, 14))
    step, forward = Pace(1.0, 0.1), Pace(0.5, 0.0)
    assert training_seconds(work, 2.0, 3, step, forward) == pytest.approx(OVERHEAD * (2 * (3 + 11) + 3 * 0.5))


def forecast_for(memory_gb=100.0):
    notes = np.random.default_rng(0).integers(20, 600, 500).tolist()
    return Forecast(SHAPES["Qwen/Qwen2.5-3B-Instruct"], notes, 60, 80, "cuda", 2, 30e12, memory_gb, "somewhere")


def test_plan_changes_nothing_where_the_training_fits():
    assert forecast_for().propose(SETTING) == (SETTING, [])


def test_plan_first_saves_memory_without_changing_the_result():
    setting, changes = forecast_for(memory_gb=8.0).propose(SETTING)
    assert changes == ["micro_batch_tokens=512 (the result stays the same)"]
    assert setting == SETTING | {"micro_batch_tokens": 512}
    assert not any(forecast_for(memory_gb=8.0).excess(setting))


def test_plan_saves_time_by_shorter_texts_before_fewer_epochs():
    hours = forecast_for().cost(SETTING)[1]
    short = SETTING | {"time_budget_hours": 0.9 * hours}
    setting, changes = forecast_for().propose(short)
    assert setting["max_length"] < SETTING["max_length"] and setting["epochs"] == SETTING["epochs"]
    cut = sum(note + 60 > setting["max_length"] for note in forecast_for().notes)
    assert changes == [f"max_length={setting['max_length']} ({cut} of 500 training notes lose text)"]
    assert not any(forecast_for().excess(setting))
    assert forecast_for().propose(SETTING | {"time_budget_hours": 0.1 * hours})[0]["epochs"] < SETTING["epochs"]


def test_plan_answers_before_anything_is_downloaded(onelap, complaint, capsys, monkeypatch, toy_params):
    result = onelap("plan", PROJECT / "params/full.yaml")
    assert result.returncode == 0, result.stderr
    assert "frozen weights                   1.43 GB" in result.stdout and result.stdout.endswith("It fits.\n")
    commands.plan(parse(["plan", "params/full.yaml", "-p", "time_budget_hours=0.001", "-p", "epochs=100"]))
    hopeless = capsys.readouterr().out
    assert (
        "It does not fit, not even with gradient_checkpointing=False (the result stays the same), max_length="
        in hopeless
    )
    assert "epochs=25.0 (fewer passes over the notes): it needs a smaller base_model.\n" in hopeless
    monkeypatch.setattr("onelap.qlora.plan.matmul_rate", lambda precision: 1e11)  # whatever else this machine does
    commands.plan(parse(["plan", str(toy_params), "-p", "time_budget_hours=0.001", "-p", "epochs=100"]))
    here = capsys.readouterr().out
    assert "some real steps say" in here and "some real steps" not in result.stdout
    assert "It would with the changes that cost least: max_length=" in here
    unknown = complaint("plan", toy_params, "-p", "base_model=nobody/nothing")
    assert "`onelap fetch PARAMS.yaml` downloads it" in unknown


def resolved(path, overrides=()):
    values, problems = read_parameters(path, overrides)
    assert not problems
    return {name: value for name, value in values.items() if name != SET_BY_THE_RUNNER}


def origins(output):
    """Return {parameter: the comment on its line}, which says where its value comes from."""
    return dict(re.findall(r"^(\w+): .*  # (.+)$", output, re.MULTILINE))


def test_plan_all_prints_every_parameter_with_value_meaning_and_origin(onelap):
    path, overrides = PROJECT / "params/one_lap.yaml", ["notes_path=~/vault", "evaluations=3", "seed=0"]
    result = onelap("plan", path, "--all", *(word for override in overrides for word in ("-p", override)))
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout) == resolved(path, overrides), "it is a parameter file itself"
    for name, parameter in read_schema().items():
        if name != SET_BY_THE_RUNNER:
            assert re.search(rf"^#   {re.escape(parameter.meaning)}\n{name}: ", result.stdout, re.MULTILINE)
    origin_of = origins(result.stdout)
    assert origin_of["notes_path"] == "-p, default data/sample_notes"
    assert origin_of["evaluations"] == "-p, default 4", "though the file names it too"
    assert origin_of["seed"] == "-p", "though it is the default"
    assert origin_of["max_length"] == "file, default 224"
    named = {override.partition("=")[0] for override in overrides} | set(yaml.safe_load(path.read_text("utf-8")))
    assert {name for name, origin in origin_of.items() if origin == "default"} == set(origin_of) - named


def test_plan_all_explains_the_stored_parameters_of_a_run(lap, onelap):
    result = onelap("plan", lap[0] / "params.yaml", "--all")
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout) == Run(lap[0]).parameters
    assert origins(result.stdout)["epochs"] == "file, default 6.0"
    assert origins(result.stdout)["lora_rank"] == "file"


def test_plan_all_needs_no_base_and_loads_no_model(onelap, toy_params):
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}  # the imports go to standard error
    result = onelap("plan", toy_params, "--all", "-p", "base_model=nobody/nothing", env=environment)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["base_model"] == "nobody/nothing"
    imported = set(re.findall(r"\| +(\w+)$", result.stderr, re.MULTILINE))
    assert "papermill" in imported and not imported & {"torch", "transformers"}


def test_plan_all_refuses_unknown_parameters(complaint, toy_params):
    assert "epoch: unknown parameter; did you mean epochs?" in complaint("plan", toy_params, "--all", "-p", "epoch=1")
