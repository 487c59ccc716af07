"""Checks this machine in some seconds, without a model, and names the fix for each trap: `onelap doctor`."""

import functools
import importlib.metadata
import locale
import os
import platform
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from onelap import PROJECT, UserError
from onelap.arms.base import locate_base
from onelap.machine import gpus

FINE, WARNING, FAILURE = "fine", "warning", "failure"
TESTED_PYTHON = [(3, 11), (3, 12)]
OLDEST_DRIVER = {"13": 580, "12": 525}  # by CUDA's major number; docs.nvidia.com/deploy/cuda-compatibility
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
LAP_GB, ROOMY_GB = 2.0, 4.0  # RAM of the embedded lap (1.2 GB measured) with room for the system; for comfort
DISK_FAILS_GB, DISK_WARNS_GB = 1.0, 20.0  # a lap leaves 0.1 GB; an 8B base is 16 GB to download
VRAM_IN_USE = 0.2  # share of a card from which other programs' use of it is worth a word
PYTHON = f'"{sys.executable}"' if " " in sys.executable else sys.executable
PIP = f"{PYTHON} -m pip install"


@dataclass(frozen=True)
class Check:
    """What was found about one subject."""

    subject: str
    state: str
    """`fine`, `warning` or `failure`: with the last a lap would fail."""
    found: str
    fix: str = ""
    """A command, or where there is none what to do; empty where all is fine."""


def examine() -> list[Check]:
    """All checks, in the order in which traps are met."""
    found = gpus.cards()
    return [
        python(),
        generation(_pins(), _installed(_pins())),
        encoding(),
        kernel(),
        *torch_and_card(found),
        quantization(),
        *vram(found, gpus.users_of_vram()),
        ram(psutil.virtual_memory().available / 1e9),
        disk(PROJECT / "outputs"),
        *bases(),
    ]


def python() -> Check:
    """The interpreter."""
    told = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] not in TESTED_PYTHON:
        return Check("python", WARNING, f"{told}; tested with 3.11 and 3.12", "make clean lap PYTHON=python3.12")
    return Check("python", FINE, told)


@functools.cache
def _pins() -> dict[str, str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(pin.split("==") for pin in project["dependencies"])


def _installed(packages: dict[str, str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def generation(pins: dict[str, str], installed: dict[str, str]) -> Check:
    """The libraries against the generation that was tested together."""
    missing = [package for package in pins if package not in installed]
    other = [f"{name} {found} (tested {pins[name]})" for name, found in installed.items() if found != pins[name]]
    fix = f"{PIP} --editable {PROJECT}"
    if missing:
        return Check("libraries", FAILURE, f"missing: {', '.join(missing)}", fix)
    if other:
        return Check("libraries", WARNING, f"not the tested generation: {', '.join(other)}", fix)
    return Check("libraries", FINE, f"{len(pins)} packages, all of the tested generation")


def encoding() -> Check:
    """`import trl` fails where Python reads its files in a Windows code page."""
    told = f"files {sys.getfilesystemencoding()}, locale {locale.getencoding()}, UTF-8 mode {sys.flags.utf8_mode}"
    if "utf" in sys.getfilesystemencoding() and (sys.flags.utf8_mode or "utf" in locale.getencoding().lower()):
        return Check("encoding", FINE, told)
    fix = "setx PYTHONUTF8 1 (then a new terminal)" if sys.platform == "win32" else "export PYTHONUTF8=1"
    return Check("encoding", WARNING, f"{told}; onelap sets UTF-8 mode for its kernels, other programs do not", fix)


def kernel() -> Check:
    """The Jupyter kernel in which the notebooks run."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    fix = f"{PYTHON} -m ipykernel install --sys-prefix --env PYTHONUTF8 1"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Check("kernel", FAILURE, "there is no Jupyter kernel named python3", fix)
    interpreter = shutil.which(spec.argv[0])
    if not interpreter or Path(interpreter).resolve() != Path(sys.executable).resolve():
        return Check("kernel", FAILURE, f"the kernel python3 runs {spec.argv[0]}, not {sys.executable}", fix)
    if spec.env.get("PYTHONUTF8") != "1" and sys.platform == "win32":
        return Check("kernel", WARNING, "the kernel python3 is not in UTF-8 mode when started by hand", fix)
    return Check("kernel", FINE, "python3 runs this Python")


def torch_and_card(found: list[gpus.Card]) -> list[Check]:
    """Is torch built for this card, does the driver suit it, and which number formats follow?"""
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = f"{PIP} --force-reinstall torch=={_pins()['torch']}"
        if sys.platform == "win32":
            fix += " (if a DLL is missing: the Visual C++ redistributable, aka.ms/vs/17/release/vc_redist.x64.exe)"
        return [Check("torch", FAILURE, f"cannot be imported: {error}", fix)]
    available = torch.cuda.is_available()
    build = build_for_card(found, torch.version.cuda, available)
    if not available:
        return [build]
    from onelap.machine.precision import choose_precision

    major, minor = torch.cuda.get_device_capability(0)
    built_for = torch.cuda.get_arch_list()
    if major * 10 + minor < min(int(re.search(r"\d+", name)[0]) for name in built_for):
        fix = "take an older generation of torch and bitsandbytes, or run on the CPU: CUDA_VISIBLE_DEVICES=-1"
        told = f"compute capability {major}.{minor}; this torch has kernels for {', '.join(built_for)}"
        return [build, Check("precision", FAILURE, told, fix)]
    return [build, Check("precision", FINE, choose_precision().why)]


def build_for_card(found: list[gpus.Card], cuda: str | None, available: bool) -> Check:
    """`cuda` is the version that torch was built with, None for a CPU build; `available`: it sees a device."""
    if not found and not available:
        return Check("card", FINE, "no NVIDIA card: laps run on the CPU, which suits the embedded base only")
    name = found[0].name if found else "CUDA device"
    driver = found[0].driver if found else "unknown"
    if cuda is None:
        fix = f"{PIP} --force-reinstall --no-deps --index-url {CUDA_INDEX} torch=={_pins()['torch']}"
        return Check("card", FAILURE, f"{name}, but torch is a CPU build: the card would not be used", fix)
    oldest = OLDEST_DRIVER.get(cuda.partition(".")[0], 0)
    if driver.partition(".")[0].isdigit() and int(driver.partition(".")[0]) < oldest:
        fix = "install a newer driver: nvidia.com/drivers, or on Ubuntu `sudo ubuntu-drivers install`"
        return Check("card", FAILURE, f"{name}: driver {driver}; torch for CUDA {cuda} needs {oldest} or newer", fix)
    if not available:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and visible.strip() in ("", "-1"):
            return Check("card", WARNING, f"{name} is hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
        told = f"{name}, but CUDA does not start" + (f" with CUDA_VISIBLE_DEVICES={visible}" if visible else "")
        return Check("card", FAILURE, told, "restart the machine, then try nvidia-smi")
    return Check("card", FINE, f"{name}, driver {driver}, torch for CUDA {cuda}")


def quantization() -> Check:
    """A matrix to NF4 and back, by bitsandbytes' native library, where the model would be."""
    again = f"{PIP} --force-reinstall --no-deps bitsandbytes=={_pins()['bitsandbytes']}"
    try:
        import torch
        from bitsandbytes import functional

        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        matrix = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
        off = (functional.dequantize_4bit(*functional.quantize_4bit(matrix, quant_type="nf4")) - matrix).abs().max()
    except Exception as error:  # whatever a native library comes up with
        told = f"the native library does not work: {' '.join(str(error).split())[:200]}"
        return Check("bitsandbytes", FAILURE, told, again)
    if not off < 0.2:  # the widest gap between two NF4 levels is 0.3
        return Check("bitsandbytes", FAILURE, f"NF4 on {device} is off by {off:.2f}", again)
    return Check("bitsandbytes", FINE, f"NF4 works on {device}")


def vram(found: list[gpus.Card], users: list[str]) -> list[Check]:
    """Free memory of the card, who uses it, and what the driver does when it is full."""
    if not found:
        return []
    card = found[0]
    told = f"{card.free_gb:.1f} of {card.memory_gb:.1f} GB free"
    told += f"; used by {', '.join(users)}" if users else ""
    free = Check("vram", FINE, told)
    if card.free_gb < (1 - VRAM_IN_USE) * card.memory_gb:
        free = Check("vram", WARNING, told, "close what uses the card, browsers and games too")
    return [free, spill(sys.platform, platform.release())]


def spill(system: str, release: str) -> Check:
    """On Windows the driver moves memory that does not fit to system RAM, and a step takes 5 to 20 times as long."""
    if system == "win32" or "microsoft" in release.lower():  # Windows, or Linux inside it
        fix = "NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback"
        return Check("spill", WARNING, "a full card spills into system memory without a word", fix)
    return Check("spill", FINE, "a full card gives an error here, no silent spill")


def ram(free_gb: float) -> Check:
    """Memory that is available, in units of 10⁹ bytes."""
    told, fix = f"{free_gb:.1f} GB available", "close other programs"
    if free_gb < LAP_GB:
        return Check("ram", FAILURE, f"{told}; the embedded lap needs {LAP_GB:.0f}", fix)
    if free_gb < ROOMY_GB:
        return Check("ram", WARNING, f"{told}; loading a 3B base needs {ROOMY_GB:.0f}", fix)
    return Check("ram", FINE, told)


def disk(outputs: Path) -> Check:
    """Room for runs, and leave to write them."""
    folder = next(path for path in (outputs, *outputs.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        return Check("disk", FAILURE, f"{folder} cannot be written", "onelap run PARAMS.yaml --run ANOTHER_DIR")
    told, fix = f"{free_gb:.0f} GB free in {folder}", "free some space, or another disk: --run DIR and HF_HOME"
    if free_gb < DISK_FAILS_GB:
        return Check("disk", FAILURE, told, fix)
    if free_gb < DISK_WARNS_GB:
        return Check("disk", WARNING, f"{told}; an 8B base takes 16", fix)
    return Check("disk", FINE, told)


def bases() -> list[Check]:
    """The base of each parameter file: on this machine, or how to get it. Without the embedded one a lap would fail."""
    checks = []
    for path in sorted((PROJECT / "params").glob("*.yaml")):
        name = yaml.safe_load(path.read_text(encoding="utf-8"))["base_model"]
        subject = f"base {name}"
        if any(check.subject == subject for check in checks):
            continue
        try:
            checks.append(Check(subject, FINE, f"at {locate_base(name)}"))
        except UserError as error:
            own = path.stem == "embedded"
            fix = "git checkout -- data/embedded_base" if own else f"onelap fetch params/{path.name}"
            told = str(error) if own else "not downloaded"
            checks.append(Check(subject, FAILURE if own else WARNING, told, fix))
    return checks
