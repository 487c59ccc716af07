"""A base in a GGUF file: a real one, written as llama.cpp's converter does."""

import hashlib
import json

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map, quants
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from onelap import UserError
from onelap.arms.base import load_base, load_tokenizer, locate_base
from onelap.machine.precision import choose_precision
from onelap.machine.store import read_json

LAYERS, HEADS, KEYS = 2, 4, 2
FORMATS = {"F16": GGMLQuantizationType.F16, "Q8_0": GGMLQuantizationType.Q8_0}


@pytest.fixture(autouse=True)
def bases(tmp_path, monkeypatch):
    """The folder in which unpacked bases are kept."""
    monkeypatch.setattr("onelap.machine.gguf.PROJECT", tmp_path)
    return tmp_path / "outputs/bases"


@pytest.fixture
def tokenizer(toy_base):
    return load_tokenizer(toy_base)


@pytest.fixture
def llama(tokenizer) -> LlamaForCausalLM:
    """A Llama of random weights, so large that attention is far from even and the order of its rows matters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).float().eval()  # values that a base of 16 bits can have


def rotated(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix in llama.cpp's order, where the two halves of a head take turns."""
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(path, model, tokenizer, number_format="F16"):
    """Write model and tokenizer as a GGUF file."""
    config, writer = model.config, GGUFWriter(path, "llama")
    writer.add_file_type(LlamaFileType["MOSTLY_" + number_format])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    types = [TokenType.CONTROL if number in special else TokenType.NORMAL for number in range(len(tokenizer))]
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer._tokenizer.to_str())["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names, stored = get_tensor_name_map(MODEL_ARCH.LLAMA, LAYERS), FORMATS[number_format]
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # that of the embeddings
            continue
        weights = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            weights = rotated(weights, HEADS if "q_proj" in name else KEYS)
        kind = stored if weights.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, (".weight",)), quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def logits(model, tokenizer, text: str = "the kettle boils again, sorry") -> torch.Tensor:
    return model(**tokenizer(text, return_tensors="pt")).logits


@pytest.mark.parametrize(("number_format", "error"), [("F16", 0.001), ("Q8_0", 0.1)])
def test_unpacked_base_answers_as_the_model_in_the_file(tmp_path, bases, llama, tokenizer, number_format, error):
    file = write_gguf(tmp_path / "toy.gguf", llama, tokenizer, number_format)
    folder = locate_base(str(file))
    assert folder.parent == bases and [path.name for path in bases.iterdir()] == [folder.name]
    assert {"config.json", "tokenizer.json", "model.safetensors"} < {path.name for path in folder.iterdir()}
    origin = read_json(folder / "gguf.json")
    assert (origin["file"], origin["format"]) == ("toy.gguf", number_format)
    expected = logits(llama, tokenizer)
    found = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer)
    assert (found - expected).abs().max() < error * expected.abs().max()


def test_unpacked_base_reads_texts_as_the_original_and_loads_as_any_other(tmp_path, llama, tokenizer):
    folder = locate_base(str(write_gguf(tmp_path / "toy.gguf", llama, tokenizer)))
    unpacked = load_tokenizer(folder)
    for text in ("the kettle boils again", "It's 12  spaces\n\nand 河", f"chat{tokenizer.eos_token}ends"):
        assert unpacked(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert unpacked.eos_token == tokenizer.eos_token
    assert torch.isfinite(logits(load_base(folder, choose_precision("fp32")), unpacked)).all()


def test_origin_of_an_unpacked_base_is_told_by_the_hash_that_other_programs_give(tmp_path, llama, tokenizer):
    file = write_gguf(tmp_path / "toy.gguf", llama, tokenizer)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_json(locate_base(str(file)) / "gguf.json")["sha256"] == digest


def test_file_is_unpacked_once(tmp_path, llama, tokenizer, capsys):
    file = write_gguf(tmp_path / "toy.gguf", llama, tokenizer)
    folder = locate_base(str(file))
    assert "unpacking toy.gguf into" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert locate_base(str(file)) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "unpacking" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no such thing", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_file_that_is_no_gguf_is_refused_and_leaves_nothing_behind(tmp_path, bases, content):
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"base_model .*broken\.gguf: expected a GGUF file of a model that "):
        locate_base(str(file))
    assert not bases.exists()


def test_half_a_file_is_refused_and_leaves_nothing_behind(tmp_path, bases, llama, tokenizer):
    """As a download leaves it that was broken off."""
    file = write_gguf(tmp_path / "half.gguf", llama, tokenizer)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"half\.gguf: expected a GGUF file"):
        locate_base(str(file))
    assert not bases.exists()
