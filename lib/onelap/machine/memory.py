"""Memory of the GPU and of the process: a cap against spilling, peaks, and smaller batches where it runs out."""

import sys
import threading
from collections.abc import Callable, Sequence

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

SPARE_GB = 0.5  # of the free GPU memory, left to the screen, the driver and cuBLAS
OUT_OF_MEMORY_MESSAGES = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # not from PyTorch's allocator
SAMPLE_SECONDS = 0.02  # between two readings of a process's memory


def cap_memory(device: str) -> None:
    """Limit this process to the free memory of its GPU; on the CPU, or where a lower cap is set, this does nothing.

    Without a cap the Windows driver silently moves to system memory what does not fit, and a step takes 5 to 20 times
    as long. With it, too large a batch is an error that can be handled.
    """
    if device == "cpu":
        return
    free, total = torch.cuda.mem_get_info(device)
    usable = (free + torch.cuda.memory_reserved(device) - SPARE_GB * 1e9) / total
    cap = min(max(usable, 0.0), torch.cuda.get_per_process_memory_fraction(device))
    torch.cuda.set_per_process_memory_fraction(cap, device)


def peak_memory_gb() -> float:
    """Return the peak so far, in GB (10⁹ bytes): of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_reserved()
    elif sys.platform == "win32":
        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(peak / 1e9, 3)


class PeakMemory:
    """The peak memory of a `with` block: then `gb` has those of `process` and `card` (GPU or None), in 10⁹ bytes."""

    def __enter__(self):
        self.ended, self.peak_bytes = threading.Event(), 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # left behind by an earlier block
            torch.cuda.reset_peak_memory_stats()
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.sampler.join()
        gpu = round(torch.cuda.max_memory_reserved() / 1e9, 3) if torch.cuda.is_available() else None
        self.gb = {"process": round(self.peak_bytes / 1e9, 3), "card": gpu}

    def _sample(self) -> None:
        # The system's own peak counts the whole life of the process, not this block.
        process, ended = psutil.Process(), False
        while not ended:
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            ended = self.ended.wait(SAMPLE_SECONDS)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an exception means that memory ran out, of the GPU or of the system."""
    outside = isinstance(error, RuntimeError) and any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)
    return outside or should_reduce_batch_size(error) or isinstance(error, MemoryError)


def release_memory(error: Exception) -> None:
    """Free the memory that a failed attempt holds, before the next attempt."""
    error.__traceback__ = None  # its frames hold the tensors
    clear_device_cache(garbage_collection=True)


class Pieces:
    """A batch processed in pieces of at most `size` rows. Where memory runs out, `size` is halved for good."""

    def __init__(self, size: int):
        self.size = size

    def each(self, function: Callable[[Sequence], object], rows: Sequence) -> list:
        """Call the function on each piece; returns its results in order. Raises where a single row does not fit."""
        results, first = [], 0
        while first < len(rows):
            piece = rows[first : first + self.size]
            try:
                results.append(function(piece))
                first += len(piece)
            except Exception as error:
                if len(piece) == 1 or not is_out_of_memory(error):
                    raise
                release_memory(error)
                self.size = (len(piece) + 1) // 2
        return results
