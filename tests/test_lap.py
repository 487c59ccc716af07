"""The whole lap with its real parts: command line, papermill, kernels, bitsandbytes, TRL."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest

from onelap import PROJECT
from onelap.lap.parameters import NOTEBOOKS
from onelap.verdict.compare import UNTUNED

STEMS = [path.stem for path in NOTEBOOKS]
ARM_FILES = {"metrics.json", "predictions.jsonl", "validation.jsonl", "sorter.json"}
ARMS = ["majority", "markup", "tfidf", *UNTUNED, "probe", "blend", "qlora"]


def test_lap_leaves_exactly_these_files_and_prints_its_verdict(lap, onelap, tmp_path):
    folder, result = lap
    inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    checkpoints = {name for name in inside if name.startswith("training/checkpoint-")}
    assert inside - checkpoints == {
        "params.yaml",
        "run.json",
        ".lock",
        ".seconds",
        "training/.lock",
        "comparison.json",
        *(f"{stem}.ipynb" for stem in STEMS),
        *(f"dataset/{part}" for part in ("train.jsonl", "validation.jsonl", "test.jsonl", "manifest.json")),
        *(f"arms/{arm}/{file}" for arm in ARMS for file in ARM_FILES),
        "training/log.jsonl",
        "training/answers.json",
        "training/inputs.json",
        "training/finished.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert any(name.endswith("adapter_model.safetensors") for name in checkpoints)

    comparison = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert result.stdout.splitlines()[-2:] == [str(folder), comparison["sentence"]]
    check_resumed(result, folder)
    check_record(folder)
    check_inventory(folder)
    check_arms(folder, comparison)
    check_notebooks(folder)
    check_numbers_without_the_library(folder, comparison)
    check_listing(folder, onelap, comparison)
    check_two_runs(folder, onelap, tmp_path)


def check_resumed(result, folder):
    """The first two notebooks were kept, and training resumed from a checkpoint."""
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.endswith("  kept")] == ["01_data_prep  kept", "02_baseline  kept"]
    assert "03_train  again: it was not finished" in lines
    assert re.search(r"Resuming from checkpoint-\d+\.", (folder / "03_train.ipynb").read_text(encoding="utf-8"))


def check_record(folder):
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "done"
    assert list(record["notebooks"]) == STEMS
    assert {notebook["status"] for notebook in record["notebooks"].values()} == {"done"}
    assert set(record["hashes"]) == {"notes", "data", "split", "base", "adapter", "sorters", "prompts"}
    assert set(record["hashes"]["prompts"]) == {"base", "base_few_shot", "qlora"}
    assert record["versions"]["torch"].startswith("2.13.0")
    assert record["actual"]["seconds"] > 0 and record["actual"]["peak_memory_gb"] > 0


def check_inventory(folder):
    """Every file of the vault is in the record: a note, or skipped with its reason."""
    manifest = json.loads((folder / "dataset/manifest.json").read_text(encoding="utf-8"))
    counts, skipped = manifest["found"], manifest["skipped"]
    assert counts["skipped"] == sum(one["count"] for one in skipped) > 20
    assert counts["files or rows found"] == counts["notes read"] + counts["skipped"]
    assert {"where": "binary.md", "count": 1, "reason": "binary: holds NUL"} in skipped
    assert "wide.md" in manifest["encodings"]["utf-16"]
    in_parts = sum(sum(kinds.values()) for kinds in manifest["notes"].values())
    assert in_parts + len(manifest["set_aside"]) == counts["notes kept"]
    style = pd.read_json(folder / "dataset/test.jsonl", lines=True)["style"]
    assert (style == "raw").mean() > 0.45, "two of six sources are raw, and test prefers them"


def test_too_few_notes_end_in_one_line_after_the_inventory(onelap, toy_params, hostile_vault, tmp_path):
    folder = tmp_path / "run"
    result = onelap("run", toy_params, "--run", folder, "-p", f"notes_path={hostile_vault}")
    assert result.returncode == 2
    assert result.stderr.startswith("onelap: 01_data_prep: expected at least 5 notes of every kind, found fewer for: ")
    assert len(result.stderr.splitlines()) == 1
    manifest = json.loads((folder / "dataset/manifest.json").read_text(encoding="utf-8"))
    assert manifest["found"]["skipped"] == sum(one["count"] for one in manifest["skipped"]) > 20
    assert "link to nothing" in (folder / "01_data_prep.ipynb").read_text(encoding="utf-8")


def check_arms(folder, comparison):
    test = pd.read_json(folder / "dataset/test.jsonl", lines=True)
    for arm in ARMS:
        lines = (folder / f"arms/{arm}/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        predictions = [json.loads(line) for line in lines]
        assert [prediction["id"] for prediction in predictions] == list(test["id"])
        for prediction in predictions:
            assert set(prediction) == {"id", "kind", "predicted", "probabilities", "seconds"}
            assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            assert prediction["predicted"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
        right = sum(prediction["kind"] == prediction["predicted"] for prediction in predictions)
        assert comparison["arms"][arm]["accuracy"]["value"] == pytest.approx(right / len(test))
    styles = dict(test["style"].value_counts().drop("", errors="ignore"))
    assert {style: by_arm["qlora"]["n"] for style, by_arm in comparison["by_style"].items()} == styles
    assert comparison["verdict"] in ("better", "worse", "cannot_tell")
    assert [(pair["a"], pair["b"]) for pair in comparison["pairs"][:2]] == [
        (comparison["before"], "qlora"),
        (comparison["rival"], "qlora"),
    ]
    # The toy kinds have words of their own, which a classifier that reads the notes at all will learn.
    assert comparison["arms"]["tfidf"]["accuracy"]["value"] > 0.9


def check_numbers_without_the_library(folder, comparison):
    """Rates, F1, differences, p and choices follow from the predictions alone, computed without the library."""
    on_validation = {}
    arms = {
        path.parent.name: pd.read_json(path, lines=True, dtype={"predicted": str})
        for path in folder.glob("arms/*/predictions.jsonl")
    }
    right = {arm: (table["kind"] == table["predicted"]).to_numpy() for arm, table in arms.items()}
    assert set(arms) == set(comparison["arms"])
    for arm, table in arms.items():
        metrics = comparison["arms"][arm]
        low, high = proportion_interval(right[arm].sum(), len(table))
        assert metrics["accuracy"] == pytest.approx(
            {"value": right[arm].mean(), "low": low, "high": high, "n": len(table)}
        )
        f1 = []
        for kind in set(table["kind"]) | set(table["predicted"]):
            hits = ((table["kind"] == kind) & (table["predicted"] == kind)).sum()
            f1.append(2 * hits / ((table["kind"] == kind).sum() + (table["predicted"] == kind).sum()))
            if (table["kind"] == kind).any():
                assert metrics["recall"][kind]["value"] == pytest.approx(hits / (table["kind"] == kind).sum())
            if (table["predicted"] == kind).any():
                assert metrics["precision"][kind]["value"] == pytest.approx(hits / (table["predicted"] == kind).sum())
        assert metrics["macro_f1"]["value"] == pytest.approx(np.mean(f1))
        confidence = table["probabilities"].map(lambda shares: max(shares.values()))
        bins = np.minimum((confidence * 10).astype(int), 9)
        gaps = [abs(right[arm][bins == one].sum() - confidence[bins == one].sum()) for one in set(bins)]
        assert metrics["ece"] == pytest.approx(sum(gaps) / len(table), abs=1e-6)
        validation = pd.read_json(folder / f"arms/{arm}/validation.jsonl", lines=True, dtype={"predicted": str})
        on_validation[arm] = (validation["kind"] == validation["predicted"]).mean()
    for role, candidates in (("before", UNTUNED), ("rival", ["majority", "markup", "tfidf"])):
        assert comparison[role] == max(candidates, key=on_validation.get)
    for pair in comparison["pairs"]:
        gained = (right[pair["b"]] & ~right[pair["a"]]).sum()
        lost = (right[pair["a"]] & ~right[pair["b"]]).sum()
        assert (pair["gained"], pair["lost"]) == (gained, lost)
        assert pair["difference"]["value"] == pytest.approx((gained - lost) / pair["n"])
        tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** int(gained + lost)
        assert pair["mcnemar_p"] == pytest.approx(min(1.0, 2 * tail))
    assert (
        f"{round(100 * right['qlora'].mean())} % on {len(right['qlora'])} frozen test notes" in comparison["sentence"]
    )


def proportion_interval(hits, n, z=1.959963984540054):
    """Compute the interval of Wilson 1927."""
    share, width = hits / n, z * math.sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n))
    return (share + z * z / (2 * n) - width) / (1 + z * z / n), (share + z * z / (2 * n) + width) / (1 + z * z / n)


def check_two_runs(folder, onelap, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    params = (other / "params.yaml").read_text(encoding="utf-8")
    (other / "params.yaml").write_text(params.replace("epochs: 1.0", "epochs: 2.0"), encoding="utf-8")
    lines = onelap("runs", "toy", other, "--outputs", folder.parent).stdout.splitlines()
    assert lines[0] == "epochs: 1.0 → 2.0"
    assert [line.partition(":")[0] for line in lines[1:]] == [*sorted(ARMS[:-1]), "qlora"]
    assert lines[-1].endswith("(+0 points, 95 % interval 0 to 0; cannot_tell)")
    notes = (other / "dataset/test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (other / "dataset/test.jsonl").write_text("".join(notes[1:]), encoding="utf-8")
    result = onelap("runs", folder, other)
    assert result.returncode == 2 and "were measured on different test notes" in result.stderr


def check_notebooks(folder):
    for stem in STEMS:
        cells = nbformat.read(folder / f"{stem}.ipynb", as_version=4).cells
        for cell in cells:
            for output in cell.get("outputs", []):
                noise = output.output_type == "error" or output.get("name") == "stderr"
                assert not noise, f"{stem}: {output}"
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code"), stem


def check_listing(folder, onelap, comparison):
    listing = onelap("runs", "--outputs", folder.parent).stdout
    for text in ("toy", "done", "toy.yaml", "majority", "qlora", comparison["sentence"]):
        assert text in listing


def test_plain_papermill_runs_a_notebook(toy_params, tmp_path):
    run_dir = tmp_path / "plain"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[0]), str(tmp_path / "out.ipynb")]
    command += ["-f", str(toy_params), "-p", "run_dir", str(run_dir), "--no-progress-bar"]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0, result.stderr
    assert (run_dir / "dataset/test.jsonl").exists()


def test_notebook_runs_by_hand_with_default_parameters(tmp_path):
    """It is run as in JupyterLab: without parameters, in the notebook's own folder."""
    few_notes = sorted((PROJECT / "data/sample_notes").iterdir())[:6]
    for folder in (PROJECT / "notebooks", PROJECT / "data/embedded_base", PROJECT / "lib/onelap", *few_notes):
        shutil.copytree(folder, tmp_path / folder.relative_to(PROJECT))
    (tmp_path / "outputs").mkdir()
    code = (
        "import nbformat, sys; from nbclient import NotebookClient\n"
        "notebook = nbformat.read('notebooks/01_data_prep.ipynb', as_version=4)\n"
        "NotebookClient(notebook, resources={'metadata': {'path': 'notebooks'}}).execute()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs/by_hand/dataset/manifest.json").exists()


def test_notebook_without_its_inputs_names_the_one_that_makes_them(toy_params, tmp_path):
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[4]), str(tmp_path / "out.ipynb")]
    command += ["-p", "run_dir", str(tmp_path / "empty"), "--no-progress-bar"]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert result.returncode == 1, result.stderr
    assert "manifest.json is missing" in result.stderr and "run 01_data_prep with this run_dir first" in result.stderr
