"""Finding a base model: folders, and what the hub's client keeps."""

import json
import shutil

import pytest

from onelap import UserError
from onelap.arms.base import hash_base, load_base, load_tokenizer, locate_base
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
    with pytest.raises(UserError, match=r"expected blocks with q_proj, .* as Qwen2 and Llama have; no q_proj"):
        add_lora(load_base(tmp_path, choose_precision()), TOY_RECIPE)


def test_stamp_ignores_a_link_to_nothing(toy_base, tmp_path):
    folder = shutil.copytree(toy_base, tmp_path / "base")
    before = stamp_files(folder)
    (folder / "gone.bin").symlink_to("nowhere")
    assert stamp_files(folder) == before
