"""What this machine is, told without importing torch."""

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Card:
    """An NVIDIA card as its driver's tool describes it."""

    name: str
    driver: str
    memory_gb: float
    """In units of 10⁹ bytes, as everywhere here."""
    free_gb: float
    temperature: float | None
    """Degrees Celsius; None where the card does not say."""


def cards() -> list[Card]:
    """NVIDIA cards: those that CUDA_VISIBLE_DEVICES lists, all where it lists none of them.

    Empty where there is none or its driver does not answer.
    """
    rows = _ask_driver("--query-gpu=name,driver_version,memory.total,memory.free,temperature.gpu,index,uuid")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    # A card is listed by its number, or by how its identifier begins.
    listed = [
        row for one in visible for row in rows if one == row[5] or (one.startswith("GPU-") and row[6].startswith(one))
    ]
    return [
        Card(name, driver, _number(total) * 2**20 / 1e9, _number(free) * 2**20 / 1e9, _number(degrees) or None)
        for name, driver, total, free, degrees, *_ in listed or rows
    ]


def users_of_vram() -> list[str]:
    """Programs that hold memory of a card, by name; on Windows only some are told."""
    rows = _ask_driver("--query-compute-apps=process_name,used_memory")
    return [f"{Path(name.replace(chr(92), '/')).name} ({used} MiB)" for name, used in rows]


def describe() -> dict:
    """The `hardware` entry of run.json."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [f"{card.name}, {card.memory_gb:.1f} GB, driver {card.driver}" for card in cards()],
    }


def _ask_driver(query: str) -> list[list[str]]:
    """The rows of an `nvidia-smi` query."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=20)
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return []
    fields = query.count(",") + 1
    rows = [[value.strip() for value in line.rsplit(",", fields - 1)] for line in found.stdout.splitlines()]
    return [row for row in rows if len(row) == fields]  # it also prints sentences


def _number(text: str) -> float:
    """0 for what the driver does not tell, as in "[N/A]"."""
    return float(text) if re.fullmatch(r"[\d.]+", text) else 0.0


def _cpu_name() -> str:
    if sys.platform == "linux":
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if found:
            return found[1]
    return platform.processor()
