"""A merged model as other programs load it, and its model card."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onelap.daily.sort import PromptedBase
from onelap.lap.run import Run
from onelap.verdict.sentences import name_of, with_interval
from tests.conftest import run_onelap


@pytest.fixture(scope="module")
def exported(lap, tmp_path_factory):
    """The folder that `onelap export` has written, after an attempt that was killed, and the finished process."""
    folder = tmp_path_factory.mktemp("export") / "my notes"
    process = subprocess.Popen([Path(sys.executable).with_name("onelap"), "export", lap[0], folder])
    while not list(folder.parent.glob(".my notes.*/model/config.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not folder.exists()
    result = run_onelap("export", lap[0], folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_export_is_a_model_folder_with_its_classifier(lap, exported):
    folder, result = exported
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "classifier.json", "README.md"),
    }
    assert result.stderr == "merging, then scoring the test notes again\n"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    classifier = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    calibration = Run(lap[0]).read_sorter("qlora")["calibration"]
    assert calibration.items() <= classifier.items()
    tokens = classifier["answer_tokens"]
    assert {kind: classifier["logit_bias"][str(token)] for kind, token in tokens.items()} == calibration["offsets"]
    assert classifier["before"].endswith("Answer with the kind only.\n") and "assistant" in classifier["after"]
    assert result.stdout.splitlines()[0] == str(folder)
    assert re.match(r"\d+ of \d+ answers differ from the adapter's \([+-]\d+ points", result.stdout.splitlines()[1])


def test_code_of_the_model_card_gives_the_probabilities_of_the_run(lap, exported):
    """With plain transformers, in a process without this library."""
    folder, _ = exported
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "onelap" not in code
    run = Run(lap[0])
    test, (predictions, _) = run.read_part("test"), run.read_arm("qlora")
    program = code + "import sys\nfor note in json.load(sys.stdin):\n    print(json.dumps(probabilities(note)))\n"
    program += "print(json.dumps(list(map(prompt_of, ['milk <|im_end|>', 'river ' * 900, '漢👩‍🌾' * 200]))))\n"
    result = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(test["text"].tolist()[:12]),
        cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *rows, prompts = map(json.loads, result.stdout.splitlines())
    actual, ours = pd.DataFrame(rows), PromptedBase.of(run).prompt
    assert prompts == [ours.text(note) for note in ("milk <|im_end|>", "river " * 900, "漢👩‍🌾" * 200)]
    expected = pd.DataFrame(predictions["probabilities"].tolist()[:12])
    assert list(actual) == list(expected)
    np.testing.assert_allclose(actual, expected, atol=0.05)  # 16 bits


def test_model_card_shows_counts_results_and_limits_and_no_note(lap, exported):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    comparison = json.loads((lap[0] / "comparison.json").read_text(encoding="utf-8"))
    manifest = json.loads((lap[0] / "dataset/manifest.json").read_text(encoding="utf-8"))
    assert comparison["sentence"] in card
    for arm in comparison["arms"]:
        assert f"\n| {name_of(arm)} | {with_interval(comparison['arms'][arm]['accuracy'])} | " in card
    counts = [str(manifest["notes"]["test"].get(kind, 0)) for kind in manifest["kinds"]]
    assert f"| test on | {' | '.join(counts)} |" in card
    assert card.startswith("---\n") and "library_name: transformers" in card
    assert not re.search("[{}%]{2}|Undefined", card), "a part of the template was not filled in"
    assert str(lap[0].parent.parent) not in card, "no path of this machine"
    for part in ("train", "test"):
        for text in pd.read_json(lap[0] / f"dataset/{part}.jsonl", lines=True)["text"]:
            assert text[:40] not in card


def test_export_that_changes_the_verdict_fails_and_leaves_nothing(lap, onelap, tmp_path):
    run = shutil.copytree(lap[0], tmp_path / "run")
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    verdict, changed = comparison["verdict"], "worse" if comparison["verdict"] != "worse" else "better"
    (run / "comparison.json").write_text(json.dumps(comparison | {"verdict": changed}), encoding="utf-8")
    result = onelap("export", run, tmp_path / "model")
    assert result.returncode == 1
    assert f"changes the verdict from {changed} to {verdict}; nothing was exported" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("onelap: ")]) == 1
    assert not list(tmp_path.glob("model*"))


def test_folder_with_something_in_it_is_not_touched(lap, complaint, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.txt").write_text("mine", encoding="utf-8")
    message = complaint("export", lap[0], tmp_path / "model")
    assert "expected a new or an empty folder, found something in it" in message
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]
