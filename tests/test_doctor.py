"""`onelap doctor` on this machine, and its checks of machines with the traps that it knows."""

import json
import os
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from onelap import PROJECT
from onelap.lap import doctor
from onelap.lap.doctor import FAILURE, FINE, WARNING
from onelap.machine import gpus
from onelap.machine.gpus import Gpu

TURING = Gpu("NVIDIA GeForce RTX 2070", "581.29", 8.6, 7.9, 45.0)


def test_doctor_finds_this_machine_fit_for_a_lap(onelap):
    result = onelap("doctor", "--json")
    assert result.returncode == 0, result.stdout
    checks = {check["subject"]: check for check in json.loads(result.stdout)}
    assert {"python", "libraries", "encoding", "kernel", "card", "bitsandbytes", "ram", "disk"} <= set(checks)
    assert checks["libraries"]["state"] == checks["bitsandbytes"]["state"] == FINE
    assert checks["base data/embedded_base"]["state"] == FINE
    assert all(check["fix"] for check in checks.values() if check["state"] != FINE)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for the driver's tool is a shell script")
def test_gpu_beside_cpu_build_of_torch_is_a_failure_with_its_fix(onelap, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.version.cuda:
        pytest.skip("this torch is a CUDA build")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "  --query-gpu*) echo 'NVIDIA GeForce RTX 2070, 581.29, 8192, 5000, [N/A], 0, GPU-1';;\n"
        "  *) printf '%s\\n' 'C:\\Games\\chess, the game.exe, 2048' 'No more processes';;\n"
        "esac\n"
    )
    tool.chmod(0o755)
    result = onelap("doctor", env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    assert result.returncode == 2
    assert result.stderr == "onelap: a lap would fail here, because of: card; the fixes are above\n"
    lines = result.stdout.splitlines()
    position = lines.index(
        "failure  card: NVIDIA GeForce RTX 2070, but torch is a CPU build: the card would not be used"
    )
    assert "--index-url https://download.pytorch.org/whl/cu130 torch==" in lines[position + 1]
    assert "warning  vram: 5.2 of 8.6 GB free; used by chess, the game.exe (2048 MiB)" in lines


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["slow", "fast"]),
        ("", ["slow", "fast"]),
        ("-1", ["slow", "fast"]),
        ("1", ["fast"]),
        ("1,0", ["fast", "slow"]),
        ("GPU-2b", ["fast"]),
        ("7", ["slow", "fast"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see(monkeypatch, visible, names):
    rows = [
        ["slow", "581.29", "8192", "5000", "40", "0", "GPU-1a"],
        ["fast", "581.29", "8192", "5000", "40", "1", "GPU-2b3"],
    ]
    monkeypatch.setattr(gpus, "_query_driver", lambda _: rows)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in gpus.list_gpus()] == names


@pytest.mark.parametrize(
    ("detected", "cuda", "available", "state", "message"),
    [
        ([], None, False, FINE, "no NVIDIA card"),
        ([TURING], "13.0", True, FINE, "driver 581.29, torch for CUDA 13.0"),
        ([Gpu("GTX", "570.10", 8.6, 8, None)], "13.0", False, FAILURE, "driver 570.10; torch for CUDA 13.0 needs 580"),
        ([TURING], "13.0", False, FAILURE, "CUDA does not start"),
    ],
)
def test_torch_driver_and_gpu_must_suit_each_other(detected, cuda, available, state, message, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check = doctor.check_build(detected, "torch==2.13.0", cuda, available)
    assert check.state == state and message in check.found
    assert bool(check.fix) == (state != FINE)


def test_hidden_gpu_is_a_warning_and_not_taken_for_a_broken_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    check = doctor.check_build([TURING], "torch==2.13.0", "13.0", False)
    assert (check.state, check.fix) == (WARNING, "unset CUDA_VISIBLE_DEVICES")


def test_libraries_of_another_generation_are_named():
    pins = {"torch": version("torch").partition("+")[0], "PyYAML": version("pyyaml")}
    assert doctor.check_libraries(pins).state == FINE
    other = doctor.check_libraries(pins | {"PyYAML": "1.16.0"})
    assert (other.state, other.found) == (
        WARNING,
        f"not the tested generation: PyYAML {pins['PyYAML']} (tested 1.16.0)",
    )
    missing = doctor.check_libraries({"no-such-library": "1.0", "PyYAML": "1.16.0"})
    assert (missing.state, missing.found) == (FAILURE, "missing: no-such-library")
    assert missing.fix.endswith(f"pip install --constraint {PROJECT / 'constraints.txt'} --editable {PROJECT}")


@pytest.mark.parametrize(("version", "state"), [((3, 11), FINE), ((3, 13), FINE), ((3, 14), WARNING)])
def test_python_that_the_libraries_are_not_made_for_is_a_warning(monkeypatch, version, state):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    check = doctor.check_python()
    assert check.state == state and check.found.endswith("; tested with 3.11")


def test_kernel_of_another_python_is_a_failure(onelap, tmp_path):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["no-such-python", "-m", "ipykernel_launcher"], "display_name": "x", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    result = onelap("doctor", env=os.environ | {"JUPYTER_PATH": str(tmp_path)})
    assert result.returncode == 2 and "because of: kernel" in result.stderr
    assert "the kernel python3 runs no-such-python" in result.stdout
    assert "ipykernel install --sys-prefix --env PYTHONUTF8 1" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a Windows console has no such locale")
def test_locale_that_is_not_utf_8_is_a_warning(onelap):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = onelap("doctor", env=os.environ | environment)
    assert "warning  encoding: files " in result.stdout and "fix: export PYTHONUTF8=1" in result.stdout


@pytest.mark.parametrize(
    ("system", "release", "state"),
    [("linux", "6.1.0", FINE), ("win32", "11", WARNING), ("linux", "5.15.90-microsoft-standard-WSL2", WARNING)],
)
def test_windows_spills_gpu_memory_below_linux_too(system, release, state):
    assert doctor.check_spill(system, release).state == state


def test_too_little_memory_is_a_failure_before_a_lap_fails():
    checks = [doctor.check_room("ram", free, "", doctor.RAM_LIMITS, "close some") for free in (1.0, 3.0, 30.0)]
    assert [check.state for check in checks] == [FAILURE, WARNING, FINE]


@pytest.mark.parametrize(("free", "state"), [(0.5e9, FAILURE), (10e9, WARNING), (500e9, FINE)])
def test_too_little_disk_is_a_failure_before_a_lap_fails(free, state, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    check = doctor.check_disk(tmp_path / "not yet" / "made")
    assert check.state == state and f"{free / 1e9:.0f} GB free in {tmp_path}" in check.found


@pytest.mark.parametrize(("free_gb", "state"), [(7.9, FINE), (5.0, WARNING)])
def test_gpu_memory_in_use_is_a_warning_that_names_its_users(free_gb, state):
    check = doctor.check_vram(Gpu("RTX 2070", "581.29", 8.6, free_gb, None), ["chess.exe (2048 MiB)"])
    assert (check.state, check.found) == (state, f"{free_gb} of 8.6 GB free; used by chess.exe (2048 MiB)")


def test_parameter_file_without_a_base_stands_for_the_embedded_one(monkeypatch, tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "params/mine.yaml").write_text("epochs: 2.0\n", encoding="utf-8")
    (tmp_path / "params/hub.yaml").write_text("base_model: nobody/nothing@0123\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    states = {check.subject: (check.state, check.fix) for check in doctor.check_bases()}
    assert states == {
        "base nobody/nothing@0123": (WARNING, "onelap fetch params/hub.yaml"),
        "base data/embedded_base": (FINE, ""),
    }
