"""The five notebooks of a lap, one after the other, through papermill."""

import contextlib
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from onelap import NotebookFailed, UserError, find_path, require_utf8
from onelap.arms.base import locate_base
from onelap.arms.prompts import parse_definitions
from onelap.lap.parameters import NOTEBOOKS, read_schema, unformatted
from onelap.lap.resume import digest_files, reason_to_repeat
from onelap.lap.run import Run, now
from onelap.machine import guard
from onelap.machine.progress import CLEAR_REST, HEARTBEAT_SECONDS, PROGRESS_VARIABLE
from onelap.machine.redact import redact_failure, redact_message
from onelap.notes.fields import Fields
from onelap.notes.split import locate_split
from onelap.notes.vault import are_samples, locate_notes
from onelap.qlora.recipe import notes_a_process

QUIET_KERNEL = "--IPKernelApp.log_level=CRITICAL"  # it logs while it is stopped
ADVICE = {  # by a part of the error
    "OutOfMemory": "a smaller micro_batch_tokens, score_batch or max_length needs less",
    "not finite": "try a lower learning_rate, or precision: fp32",
    "No space left": "free some space or choose another disk with --run DIR",
}


class PrivateKernelManager(AsyncKernelManager):
    """Starts kernels with encrypted messages, whose own standard error (of ZeroMQ, at the end) is not shown.

    Note text passes between runner and kernel over loopback, where other users of the machine could listen. What a
    cell writes to standard error, native libraries included, is in the notebook.
    """

    async def _async_pre_start_kernel(self, **options):
        options |= {"transport_encryption": "auto", "stderr": subprocess.DEVNULL}
        return await super()._async_pre_start_kernel(**options)


class Progress:
    """A line on standard output: notebook, cell, for how long and how far; every second the lap's seconds are kept."""

    def __init__(self, run: Run, name: str, cells: int):
        self.run, self.name, self.cell, self.cells = run, name, 0, cells  # code cells: the present one, and all
        self.file = Path(os.environ[PROGRESS_VARIABLE])  # where `ProgressLine` leaves the line of a long cell
        self.started, self.terminal = time.monotonic(), sys.stdout.isatty()
        self.finished = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self):
        self._remove_file()
        self.ticker.start()

    def __exit__(self, *_):
        self.finished.set()
        self.ticker.join()
        self._remove_file()
        self._show(end="\n")

    def count_cell(self, **_) -> None:
        """Count a code cell that starts, as Jupyter does: In [1], In [2] and so on."""
        self._remove_file()
        self.cell += 1

    @property
    def place(self) -> str:
        """Notebook and cell, as in `03_train, In [7]`."""
        return f"{self.name}, In [{self.cell}]"

    @property
    def seconds(self) -> float:
        """Seconds since the notebook began."""
        return round(time.monotonic() - self.started, 1)

    def _remove_file(self) -> None:
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            self.file.unlink()

    def _tick(self) -> None:
        for second in itertools.count(1):
            if self.finished.wait(1.0):
                return
            self.run.keep_seconds()
            if second % HEARTBEAT_SECONDS[self.terminal] == 0:
                self._show(end="" if self.terminal else "\n")

    def _show(self, end: str) -> None:
        detail = ""
        with contextlib.suppress(OSError):  # there is none, or it is being written
            detail = self.file.read_text(encoding="utf-8")
        text = f"{self.name}  In [{self.cell}] of {self.cells}  {self.seconds:.0f} s  {detail}"
        print(f"\r{text}{CLEAR_REST}" if self.terminal else text, end=end, flush=True)


class Interrupt:
    """Ctrl-C while a notebook runs: kills the kernel, so that papermill comes to its own end.

    A KeyboardInterrupt could break off papermill's event loop anywhere, and leave the kernel with its memory behind.
    """

    def __init__(self):
        self.requested = False
        self.children = set(psutil.Process().children())

    def __enter__(self):
        self.handler = signal.signal(signal.SIGINT, self._request)

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.handler)

    def _request(self, *_) -> None:
        self.requested = True
        self.end_kernel()

    def check(self, **_) -> None:
        """Raise InterruptedError where Ctrl-C came when there was no kernel to kill."""
        if self.requested:
            raise InterruptedError

    def end_kernel(self) -> None:
        """Kill the processes that were started since, at most one kernel."""
        for process in set(psutil.Process().children()) - self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def resolve_inputs(parameters: dict) -> list[str]:
    """Make the paths of notes and base absolute, in place; returns everything that is wrong with the values."""
    problems = []

    def attempt(function, *values):
        try:
            return function(*values)
        except UserError as error:
            problems.append(str(error))

    if parameters["endpoint"]:
        attempt(guard.check_address, parameters["endpoint"], parameters["allow_upload"])
    if parameters["embedding_model"]:
        parameters["embedding_model"] = str(attempt(locate_base, parameters["embedding_model"]))
    reporter = parameters["report_to"]
    if reporter != "none" and not importlib.util.find_spec(reporter):
        problems.append(f"report_to: {reporter} is not installed; `pip install {reporter}` does that")
    parameters["notes_path"] = str(attempt(require_utf8, attempt(locate_notes, parameters["notes_path"])))
    parameters["split_dir"] = str(attempt(locate_split, parameters["split_dir"]))
    if fields := attempt(Fields.of, parameters):
        attempt(parse_definitions, parameters["definitions"], fields.kinds)
    base = attempt(require_utf8, attempt(locate_base, parameters["base_model"]))
    attempt(notes_a_process, parameters["effective_batch"])
    if base and find_path(parameters["base_model"]).exists():  # a hub model keeps its name
        parameters["base_model"] = str(base)
    return problems


def run_lap(run: Run, parameters: dict, notebooks: list[Path] = NOTEBOOKS) -> None:
    """Execute the notebooks into the run folder, except those whose work is still good, and keep `run.json` up to date.

    Raises UserError where a notebook met something that the user must change, KeyboardInterrupt for an interrupt, and
    NotebookFailed for any other failure. The failed notebook is kept, the later ones are not run.
    """
    # Every kernel inherits these. Without the first, `import trl` fails on Windows; the second selects one GPU.
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ[PROGRESS_VARIABLE] = str(run.path / ".progress")
    guard.record_in(run.path)
    run.begin_session()
    status, error = "failed", None
    try:
        for notebook in notebooks:
            reason = reason_to_repeat(run, notebook.stem)
            if notebook.stem in run.record.get("notebooks", {}):
                print(f"{notebook.stem}  {f'again: {reason}' if reason else 'kept'}", flush=True)
            if reason:
                _run_notebook(run, notebook, parameters)
        status = "done"
    except KeyboardInterrupt as interrupt:
        status, error = "interrupted", f"interrupted{interrupt}"
        raise
    except Exception as failure:
        error = str(failure)
        raise
    finally:
        network, actual = {"refused": len(guard.read_log(run.path))}, {"seconds": run.seconds}
        _record_end(run, status=status, error=error, finished=now(), actual=actual, network=network)


def _run_notebook(run: Run, source: Path, parameters: dict) -> None:
    name, schema = source.stem, read_schema([source])
    values = {key: value for key, value in parameters.items() if key in schema} | {"run_dir": str(run.path)}
    # Papermill rewrites its output in place; the notebook gets its final name when it is whole.
    working, final = run.path / f".{name}.running.ipynb", run.path / f"{name}.ipynb"
    entry = {"status": "running", "started": now(), "read": digest_files(run, name, "read")}
    run.update(notebooks={name: entry})
    cells = [cell for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    progress = Progress(run, name, len(cells) + 1)  # papermill adds a cell with the values
    interrupt = Interrupt()
    hooks = {"on_cell_start": interrupt.check, "on_cell_execute": progress.count_cell}
    kernel = {"kernel_manager_class": PrivateKernelManager, "extra_arguments": [QUIET_KERNEL], "cwd": str(run.path)}
    entry["status"] = "failed"
    show_text = parameters.get("show_text", True) or are_samples(parameters["notes_path"])
    try:
        with progress, interrupt:
            paths = unformatted(source), unformatted(working)
            notebook = papermill.execute_notebook(*paths, values, progress_bar=False, **hooks, **kernel)
            _refuse_early_exit(notebook)
        entry |= {"status": "done", "written": digest_files(run, name, "written")}
        interrupt.check()
    except Exception as error:
        if not interrupt.requested:
            raise _failure(error, progress, final, show_text) from None
        if entry["status"] != "done":
            entry["status"] = "interrupted"
        hint = f"`onelap run --resume {run.path}` continues"
        raise KeyboardInterrupt(f" in {progress.place}; what was finished is kept, {hint}") from None
    finally:
        interrupt.end_kernel()
        _keep(working, final, show_text)
        _record_end(run, notebooks={name: entry | {"seconds": progress.seconds}})


def _failure(error: Exception, progress: Progress, final: Path, show_text: bool) -> Exception:
    """Return the exception to raise for papermill's: an error of the user, of the machine or of our code."""
    match error:
        case PapermillExecutionError(ename="UserError"):
            return UserError(f"{progress.name}: {error.evalue}")
        case PapermillExecutionError(ename=name, evalue=value):
            line = (value.splitlines() or [""])[0]
            cause, message = f"{name}: {line}", f"{name}: {line if show_text else redact_message(name, line)}"
            place = f"; the notebook with its traceback is {final}"
        case DeadKernelError():
            cause, message = "OutOfMemory", "the kernel was killed, most often because memory ran out"
            place = f"; {final} shows how far it came"
        case OSError():
            cause, message, place = str(error), str(error), ""
        case _:
            return error
    advice = next((f"; {advice}" for part, advice in ADVICE.items() if part in cause), "")
    return NotebookFailed(f"{progress.place}: {message}{advice}{place}")


def _keep(working: Path, final: Path, show_text: bool) -> None:
    """Give the executed notebook its name, failed cells redacted unless `show_text`; where that fails, remove it."""
    try:
        notebook = nbformat.read(working, as_version=4)
        if not show_text and redact_failure(notebook):
            nbformat.write(notebook, working)
    except BaseException as error:  # an interrupt too, or half a file, which a full disk leaves
        working.unlink(missing_ok=True)
        if not isinstance(error, OSError | ValueError):
            raise
    else:
        working.replace(final)


def _refuse_early_exit(notebook: nbformat.NotebookNode) -> None:
    """Raise for `SystemExit(0)` in a cell, which papermill takes for success though the later cells did not run."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.output_type == "error":
            raise PapermillExecutionError(None, None, None, output.ename, output.evalue, output.traceback)


def _record_end(run: Run, **changes: object) -> None:
    """Record an end in `run.json`; where the disk is full, the first error matters more and is not replaced."""
    try:
        run.keep_seconds()
        run.update(**changes)
    except OSError as error:
        print(f"run.json could not be brought up to date: {error}", file=sys.stderr)
