"""Checks of this machine for what would stop a lap, without loading a model; each names a fix (`onelap doctor`)."""

import locale
import os
import platform
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import psutil

from onelap import PROJECT, UserError
from onelap.arms.base import locate_base
from onelap.machine.gpus import Gpu, list_gpus, users_of_vram
from onelap.machine.store import read_yaml

FINE, WARNING, FAILURE = "fine", "warning", "failure"
NEWEST_PYTHON = (3, 13)  # that the pinned libraries are made for
OLDEST_DRIVER = {"13": 580, "12": 525}  # by CUDA's major number; docs.nvidia.com/deploy/cuda-compatibility
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
# Below so many GB: the state and the reason. A lap takes 1.2 GB of RAM (measured) and leaves 0.1 GB on disk.
RAM_LIMITS = [(2.0, FAILURE, "; the embedded lap needs 2"), (4.0, WARNING, "; loading a 3B base needs 4")]
DISK_LIMITS = [(1.0, FAILURE, ""), (20.0, WARNING, "; an 8B base takes 16")]
VRAM_SHARE_IN_USE = 0.2  # of a GPU's memory: above it, its use by other programs is a warning
MAX_NF4_ERROR = 0.2  # of values in [-1, 1]; the widest gap between two NF4 levels is 0.3
EMBEDDED_BASE = "data/embedded_base"
PYTHON = f'"{sys.executable}"' if " " in sys.executable else sys.executable
PIP = f"{PYTHON} -m pip install"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    subject: str
    state: str  # `fine`, `warning` or `failure`: with a failure a lap would fail
    found: str
    fix: str = ""  # a command, or what to do where there is none; empty where all is fine


def examine() -> list[Check]:
    """Run all checks, in the order in which a lap would meet the traps."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins, gpus = dict(pin.split("==") for pin in project["dependencies"]), list_gpus()
    free_gb = psutil.virtual_memory().available / 1e9
    return [
        check_python(),
        check_libraries(pins),
        check_encoding(),
        check_kernel(),
        *check_torch(gpus, f"torch=={pins['torch']}"),
        check_quantization(f"bitsandbytes=={pins['bitsandbytes']}"),
        *([check_vram(gpus[0], users_of_vram()), check_spill(sys.platform, platform.release())] if gpus else []),
        check_room("ram", free_gb, f"{free_gb:.1f} GB available", RAM_LIMITS, "close other programs"),
        check_disk(PROJECT / "outputs"),
        *check_bases(),
    ]


def check_python() -> Check:
    """Check the interpreter's version."""
    state, fix = (WARNING, "make clean lap PYTHON=python3.11") if sys.version_info[:2] > NEWEST_PYTHON else (FINE, "")
    return Check("python", state, f"{platform.python_version()} at {sys.executable}; tested with 3.11", fix)


def check_libraries(pins: dict[str, str]) -> Check:
    """Check that the installed libraries are of the generation, {package: version}, that was tested together."""
    installed = {name: next((one.version.partition("+")[0] for one in distributions(name=name)), "") for name in pins}
    fix = f"{PIP} --constraint {PROJECT / 'constraints.txt'} --editable {PROJECT}"
    if missing := [name for name, version in installed.items() if not version]:
        return Check("libraries", FAILURE, f"missing: {', '.join(missing)}", fix)
    if other := [f"{name} {one} (tested {pins[name]})" for name, one in installed.items() if one != pins[name]]:
        return Check("libraries", WARNING, f"not the tested generation: {', '.join(other)}", fix)
    return Check("libraries", FINE, f"{len(pins)} packages, all of the tested generation")


def check_encoding() -> Check:
    """Check that Python reads files as UTF-8; `import trl` fails where it reads them in a Windows code page."""
    names = f"files {sys.getfilesystemencoding()}, locale {locale.getencoding()}, UTF-8 mode {sys.flags.utf8_mode}"
    if "utf" in sys.getfilesystemencoding() and (sys.flags.utf8_mode or "utf" in locale.getencoding().lower()):
        return Check("encoding", FINE, names)
    fix = "setx PYTHONUTF8 1 (then a new terminal)" if sys.platform == "win32" else "export PYTHONUTF8=1"
    return Check("encoding", WARNING, f"{names}; onelap sets UTF-8 mode for its kernels, other programs do not", fix)


def check_kernel() -> Check:
    """Check that the Jupyter kernel in which the notebooks run starts this Python."""
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


def check_torch(gpus: list[Gpu], pin: str) -> list[Check]:
    """Check that torch can be imported and is built for the GPU, and which number formats follow."""
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = f"{PIP} --force-reinstall {pin}"
        if sys.platform == "win32":
            fix += " (if a DLL is missing: the Visual C++ redistributable, aka.ms/vs/17/release/vc_redist.x64.exe)"
        return [Check("torch", FAILURE, f"cannot be imported: {error}", fix)]
    build = check_build(gpus, pin, torch.version.cuda, torch.cuda.is_available())
    if not torch.cuda.is_available():
        return [build]
    from onelap.machine.precision import choose_precision

    (major, minor), supported = torch.cuda.get_device_capability(0), torch.cuda.get_arch_list()
    if major * 10 + minor < min(int(re.search(r"\d+", name)[0]) for name in supported):
        fix = "take an older generation of torch and bitsandbytes, or run on the CPU: CUDA_VISIBLE_DEVICES=-1"
        capability = f"compute capability {major}.{minor}; this torch has kernels for {', '.join(supported)}"
        return [build, Check("precision", FAILURE, capability, fix)]
    return [build, Check("precision", FINE, choose_precision().why)]


def check_build(gpus: list[Gpu], pin: str, cuda: str | None, available: bool) -> Check:
    """Check build, driver and GPU: torch is built for the version `cuda` (None: CPU), and sees a GPU if `available`."""
    if not gpus and not available:
        return Check("card", FINE, "no NVIDIA card: laps run on the CPU, which suits the embedded base only")
    name, driver = (gpus[0].name, gpus[0].driver) if gpus else ("CUDA device", "unknown")
    if cuda is None:
        fix = f"{PIP} --force-reinstall --no-deps --index-url {CUDA_INDEX} {pin}"
        return Check("card", FAILURE, f"{name}, but torch is a CPU build: the card would not be used", fix)
    oldest, major = OLDEST_DRIVER.get(cuda.partition(".")[0], 0), driver.partition(".")[0]
    if major.isdigit() and int(major) < oldest:
        fix = "install a newer driver: nvidia.com/drivers, or on Ubuntu `sudo ubuntu-drivers install`"
        return Check("card", FAILURE, f"{name}: driver {driver}; torch for CUDA {cuda} needs {oldest} or newer", fix)
    if available:
        return Check("card", FINE, f"{name}, driver {driver}, torch for CUDA {cuda}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return Check("card", WARNING, f"{name} is hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    reason = f"{name}, but CUDA does not start" + (f" with CUDA_VISIBLE_DEVICES={visible}" if visible else "")
    return Check("card", FAILURE, reason, "restart the machine, then try nvidia-smi")


def check_quantization(pin: str) -> Check:
    """Check bitsandbytes' native library: a matrix to NF4 and back, on the device where the model would be."""
    try:
        import torch
        from bitsandbytes import functional

        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        matrix = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
        unpacked = functional.dequantize_4bit(*functional.quantize_4bit(matrix, quant_type="nf4"))
        largest_error = float((unpacked - matrix).abs().max())
        if largest_error < MAX_NF4_ERROR:  # NaN is not
            return Check("bitsandbytes", FINE, f"NF4 works on {device}")
        problem = f"NF4 on {device} is off by {largest_error:.2f}"
    except Exception as error:  # of any type: a native library raised it
        problem = f"the native library does not work: {' '.join(str(error).split())[:200]}"
    return Check("bitsandbytes", FAILURE, problem, f"{PIP} --force-reinstall --no-deps {pin}")


def check_vram(gpu: Gpu, users: list[str]) -> Check:
    """Check the free memory of the GPU, and list the programs that use it."""
    summary = f"{gpu.free_gb:.1f} of {gpu.memory_gb:.1f} GB free" + (f"; used by {', '.join(users)}" if users else "")
    limits = [((1 - VRAM_SHARE_IN_USE) * gpu.memory_gb, WARNING, "")]
    return check_room("vram", gpu.free_gb, summary, limits, "close what uses the card, browsers and games too")


def check_spill(system: str, release: str) -> Check:
    """Check for Windows, whose driver moves to RAM what does not fit the GPU; a step takes 5 to 20 times as long."""
    if system == "win32" or "microsoft" in release.lower():  # Windows, or Linux inside it
        fix = "NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback"
        return Check("spill", WARNING, "a full card spills into system memory without a word", fix)
    return Check("spill", FINE, "a full card gives an error here, no silent spill")


def check_disk(outputs: Path) -> Check:
    """Check that runs can be written to this folder, and that there is room for them."""
    folder = next(path for path in (outputs, *outputs.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Check("disk", FAILURE, f"{folder} cannot be written", "onelap run PARAMS.yaml --run ANOTHER_DIR")
    free_gb = shutil.disk_usage(folder).free / 1e9
    fix = "free some space, or another disk: --run DIR and HF_HOME"
    return check_room("disk", free_gb, f"{free_gb:.0f} GB free in {folder}", DISK_LIMITS, fix)


def check_room(subject: str, free_gb: float, summary: str, limits: list[tuple[float, str, str]], fix: str) -> Check:
    """Check free memory or space in GB (10⁹ bytes): the state is that of the first limit that it is below."""
    for limit, state, reason in limits:
        if free_gb < limit:
            return Check(subject, state, summary + reason, fix)
    return Check(subject, FINE, summary)


def check_bases() -> list[Check]:
    """Check that the base of each parameter file is on this machine; without the embedded one a lap would fail."""
    checks = {}
    for path in sorted((PROJECT / "params").glob("*.yaml")):
        name = read_yaml(path).get("base_model", EMBEDDED_BASE)
        try:
            result = FINE, f"at {locate_base(name)}"
        except UserError as error:
            result = WARNING, "not downloaded", f"onelap fetch params/{path.name}"
            if name == EMBEDDED_BASE:
                result = FAILURE, str(error), f"git checkout -- {EMBEDDED_BASE}"
        checks.setdefault(name, Check(f"base {name}", *result))
    return list(checks.values())
