"""Finding a base model: folders, and what the hub's client keeps."""

import json
import shutil

import pytest

from onelap import UserError
from onelap.arms.base import hash_base, load_base, load_tokenizer, locate_base, warn_of_unknown_script
from onelap.machine.precision import choose_precision
from onelap.machine.store import stamp_files
from onelap.qlora.training import add_lora
from tests.conftest import TOY_RECIPE

NAME, COMMIT = "Somebody/Toy-0.1B", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(toy_base, tmp_path, monkeypatch):
    """The cache as huggingface_hub leaves it: a snapshot, and the list of all files of the repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--Somebody--Toy-0.1B"
    shutil.copytree(toy_base, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT, encoding="utf-8")
    return repository / "snapshots" / COMMIT


def test_downloaded_base_is_found_by_its_name(hub_cache):
    assert locate_base(NAME) == hub_cache


def test_downloaded_base_without_safetensors_is_refused(hub_cache):
    (hub_cache / "model.safetensors").rename(hub_cache / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"found no \*.safetensors"):
        locate_base(NAME)


@pytest.mark.parametrize("name", ["Somebody/Unknown", "no-such-folder", "C:/models/odd name"])
def test_unknown_name_is_refused_with_the_command_that_downloads_it(name):
    advice = f"base_model {name}: there is no such folder, .*; `onelap fetch PARAMS.yaml` downloads it"
    with pytest.raises(UserError, match=advice):
        locate_base(name)


@pytest.mark.parametrize("name", ["", "params"])
def test_folder_without_a_model_is_refused_with_what_is_missing(name):
    with pytest.raises(UserError, match=r"found no config.json and no tokenizer\* and no \*.safetensors"):
        locate_base(name)


def test_tokenizer_without_an_end_token_is_refused(toy_base, tmp_path):
    folder = shutil.copytree(toy_base, tmp_path / "base")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["eos_token"] = None
    config["model_max_length"] = 512
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="expected a tokenizer with an end token"):
        load_tokenizer(folder)


def test_hash_distinguishes_bases_of_one_shape(toy_base, tmp_path):
    other = shutil.copytree(toy_base, tmp_path / "other")
    assert hash_base(other) == hash_base(toy_base)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert hash_base(other) != hash_base(toy_base)


def test_base_with_fused_layers_is_refused(tmp_path):
    """Phi-3 has one matrix for q, k and v: LoRA would quietly adapt two layers of seven."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
    )
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"expected q_proj, .* in each of its 1 blocks, .*; found q_proj in 0, k_proj"):
        add_lora(load_base(tmp_path, choose_precision()), TOY_RECIPE)


def test_base_with_linear_attention_in_some_blocks_is_refused(tmp_path):
    """Of Qwen3.5's blocks one in four has q, k, v and o: LoRA would quietly miss the others' attention."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 16}
    linear = {f"linear_{part}": 16 for part in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    Qwen3_5ForCausalLM(Qwen3_5TextConfig(**sizes, **heads, **linear)).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"in each of its 4 blocks, .*; found q_proj in 1, k_proj in 1, .*o_proj in 1\."
    ):
        add_lora(load_base(tmp_path, choose_precision()), TOY_RECIPE)


def test_notes_in_a_script_that_the_tokenizer_does_not_know_are_counted(toy_base):
    tokenizer = load_tokenizer(toy_base)
    english, japanese = ["the kettle boils"] * 17, ["猫の爪は土曜の朝に切る"] * 3
    warning = warn_of_unknown_script(tokenizer, english + japanese)
    assert warning.startswith("The base can hardly read 3 of 20 notes: most of their tokens are single bytes")
    assert warn_of_unknown_script(tokenizer, [*english, "the kettle 猫"]) == ""


def test_weights_on_a_cpu_are_unpacked_and_keep_the_values_that_nf4_gave_them(toy_base):
    import torch

    packed, unpacked = (load_base(toy_base, choose_precision("fp32"), unpacked=one) for one in (False, True))
    ids = torch.arange(1, 30)[None]
    assert type(packed.model.layers[0].mlp.up_proj) is not torch.nn.Linear
    assert type(load_base(toy_base, choose_precision("fp32")).model.layers[0].mlp.up_proj) is torch.nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, unpacked(ids).logits, atol=1e-5, rtol=1e-4)


def test_stamp_ignores_a_link_to_nothing(toy_base, tmp_path):
    folder = shutil.copytree(toy_base, tmp_path / "base")
    before = stamp_files(folder)
    (folder / "gone.bin").symlink_to("nowhere")
    assert stamp_files(folder) == before
