"""Memory of card and process: a cap, so that none is spilled, and smaller pieces where it runs out."""

import sys
import threading
from collections.abc import Callable, Sequence

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

SPARE_GB = 0.5  # of the free memory, left to the screen, to the driver and to cuBLAS
RAN_OUT = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # outside of PyTorch's own memory
SAMPLED = 0.02  # seconds between looks at a process's memory


def cap_memory(device: str) -> None:
    """Keep this process below the card's free memory, where `device` is a card.

    Without a cap Windows moves to system memory what does not fit, silently, and a step takes 5 to
    20 times as long; with it, too large a batch is an error that can be handled. A lower cap stays.
    """
    if device == "cpu":
        return
    free, total = torch.cuda.mem_get_info(device)
    usable = (free + torch.cuda.memory_reserved(device) - SPARE_GB * 1e9) / total
    cap = min(max(usable, 0.0), torch.cuda.get_per_process_memory_fraction(device))
    torch.cuda.set_per_process_memory_fraction(cap, device)


def peak_memory_gb() -> float:
    """Peak so far, in units of 10⁹ bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_reserved() / 1e9, 3)
    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return round(info.peak_wset / 1e9, 3)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


class PeakMemory:
    """The most that was in use within a `with` block, libraries included."""

    gb: dict[str, float | None]
    """Of `process` and of `card` (None where there is none), in 10⁹ bytes; known after the block."""

    def __enter__(self):
        self.ended, self.most = threading.Event(), 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what an earlier block has left behind
            torch.cuda.reset_peak_memory_stats()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.watch.join()
        card = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else None
        self.gb = {"process": round(self.most / 1e9, 3), "card": card and round(card, 3)}

    def _watch(self) -> None:
        # The system's own peak is of the whole life of the process, not of this block.
        process = psutil.Process()
        while True:
            self.most = max(self.most, process.memory_info().rss)
            if self.ended.wait(SAMPLED):
                return


def ran_out(error: Exception) -> bool:
    """Whether an exception says that memory ran out."""
    outside = isinstance(error, RuntimeError) and any(sign in str(error) for sign in RAN_OUT)
    return outside or should_reduce_batch_size(error) or isinstance(error, MemoryError)


def give_back(error: Exception) -> None:
    """Let go of what a failed attempt holds, before the next one."""
    error.__traceback__ = None  # its frames hold the tensors
    clear_device_cache(garbage_collection=True)


class Pieces:
    """Calls a function on pieces of a batch; they become smaller for good where memory runs out."""

    def __init__(self, size: int):
        self.size = size

    def each(self, function: Callable[[Sequence], object], rows: Sequence) -> list:
        """The function's results for the pieces, in order. Raises what it raises where one row is too many."""
        results, first = [], 0
        while first < len(rows):
            piece = rows[first : first + self.size]
            try:
                results.append(function(piece))
                first += len(piece)
            except Exception as error:
                if len(piece) == 1 or not ran_out(error):
                    raise
                give_back(error)
                self.size = (len(piece) + 1) // 2
        return results
