"""The GPUs, the processor and the memory of this machine, read without importing torch."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import psutil


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as `nvidia-smi` describes it; memory in GB (10⁹ bytes), as everywhere here."""

    name: str
    driver: str
    memory_gb: float
    free_gb: float
    temperature: float | None  # degrees Celsius; None where the GPU does not report it


def list_gpus() -> list[Gpu]:
    """List the GPUs that CUDA_VISIBLE_DEVICES names, in its order, else all; none where no driver answers."""
    rows = _query_driver("--query-gpu=name,driver_version,memory.total,memory.free,temperature.gpu,index,uuid")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ids = [entry for entry in visible if entry.isdigit() or entry.startswith("GPU-")]
    named = [row for entry in ids for row in rows if entry == row[5] or row[6].startswith(entry)]
    return [
        Gpu(name, driver, _number(total) * 2**20 / 1e9, _number(free) * 2**20 / 1e9, _number(degrees) or None)
        for name, driver, total, free, degrees, *_ in named or rows
    ]


def users_of_vram() -> list[str]:
    """List the programs that hold GPU memory, by name and MiB; on Windows the driver reports only some."""
    rows = _query_driver("--query-compute-apps=process_name,used_memory")
    return [f"{PureWindowsPath(path).name} ({used} MiB)" for path, used in rows]  # splits at / and at \


def describe() -> dict:
    """Describe this machine for the `hardware` entry of run.json."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": model[1] if model else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [f"{gpu.name}, {gpu.memory_gb:.1f} GB, driver {gpu.driver}" for gpu in list_gpus()],
    }


def _query_driver(query: str) -> list[list[str]]:
    """Run an `nvidia-smi` query and return its rows."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=20)
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return []
    commas = query.count(",")
    lines = [line for line in result.stdout.splitlines() if line.count(",") >= commas]  # it prints sentences too
    return [[value.strip() for value in line.rsplit(",", commas)] for line in lines]


def _number(text: str) -> float:
    """Read a number; 0 where the driver reports none, as in "[N/A]"."""
    return float(text) if re.fullmatch(r"[\d.]+", text) else 0.0
