"""The five notebooks of a lap, one after the other, through papermill."""

import contextlib
import importlib.util
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
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from onelap import NotebookFailed, UserError, find_path
from onelap.arms.base import locate_base
from onelap.arms.endpoint import check_address
from onelap.arms.prompts import parse_definitions
from onelap.lap.parameters import NOTEBOOKS, read_schema
from onelap.lap.resume import digest, step_of, why_again
from onelap.lap.run import Run, now
from onelap.machine import guard
from onelap.machine.progress import CLEAR, HEARTBEAT
from onelap.machine.progress import VARIABLE as PROGRESS_VARIABLE
from onelap.machine.redact import redact_failure, withhold
from onelap.notes.read import FIELD_PARAMETERS, Fields, are_samples, locate_notes
from onelap.qlora.recipe import accumulation_steps


class QuietKernelManager(AsyncKernelManager):
    """Starts kernels whose last words on standard error (of ZeroMQ, at the end) do not reach the terminal.

    What a cell writes there, native libraries included, goes into the notebook as before.
    """

    async def _async_pre_start_kernel(self, **options):
        return await super()._async_pre_start_kernel(**options | {"stderr": subprocess.DEVNULL})


KERNELS = Config(
    {
        # Note text passes between runner and kernel over loopback; other users of the machine could listen.
        "KernelManager": {"transport_encryption": "auto"},
        # What goes wrong in a cell is in the notebook; what a kernel says when it is stopped helps nobody.
        "NotebookClient": {
            "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
            "kernel_manager_class": QuietKernelManager,
        },
    }
)
LESS_MEMORY = "a smaller micro_batch, score_batch or max_length needs less"
ADVICE = {
    "OutOfMemory": LESS_MEMORY,
    "not finite": "try a lower learning_rate, or precision: fp32",
    "No space left": "free some space or choose another disk with --run DIR",
}


class ReportingEngine(NBClientEngine):
    """Papermill's engine, telling `on_cell(number, of)` which code cell starts: In [number]."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, on_cell, **options):
        """Execute the notebook held by papermill's `nb_man`."""
        start = nb_man.cell_start
        code = [index for index, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code"]

        def report(cell, cell_index=None, **details):
            if cell_index in code:
                on_cell(code.index(cell_index) + 1, len(code))
            start(cell, cell_index, **details)

        nb_man.cell_start = report
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


class Progress:
    """Which cell of which notebook is running, for how long, on standard output."""

    def __init__(self, name: str, line: Path):
        self.name, self.cell, self.of = name, 0, 0
        self.line = line
        """Where a long cell says how far it is."""
        self.started = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.finished = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self):
        self._forget_line()
        self.ticker.start()
        return self

    def __exit__(self, *_):
        self.finished.set()
        self.ticker.join()
        self._forget_line()
        self._show(end="\n")

    def on_cell(self, number: int, of: int) -> None:
        """A cell starts; `ReportingEngine` calls this."""
        self._forget_line()
        self.cell, self.of = number, of

    @property
    def place(self) -> str:
        """Notebook and cell, as in `03_train, In [7]`."""
        return f"{self.name}, In [{self.cell}]"

    @property
    def seconds(self) -> float:
        """Since the notebook began."""
        return round(time.monotonic() - self.started, 1)

    def _forget_line(self) -> None:
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            self.line.unlink()

    def _tick(self) -> None:
        while not self.finished.wait(HEARTBEAT[self.terminal]):
            self._show(end="" if self.terminal else "\n")

    def _show(self, end: str) -> None:
        start = "\r" if self.terminal else ""
        told = ""
        with contextlib.suppress(OSError):  # there is none, or it is being written
            told = self.line.read_text(encoding="utf-8")
        text = f"{self.name}  In [{self.cell}] of {self.of}  {self.seconds:.0f} s  {told}"
        print(f"{start}{text}{CLEAR if self.terminal else ''}", end=end, flush=True)


class Interrupt:
    """Ctrl-C while a notebook runs: kills the kernel, so that papermill comes to an end of its own.

    A KeyboardInterrupt would break off its event loop anywhere, and leave behind the kernel,
    with the memory that it holds, and tasks that complain when they are collected.
    """

    def __init__(self):
        self.asked = False
        self.children = set(psutil.Process().children())

    def __enter__(self):
        self.handler = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.handler)

    def _ask(self, *_) -> None:
        self.asked = True
        self.end_kernel()

    def check(self) -> None:
        """Raise InterruptedError where Ctrl-C came while there was no kernel yet, or no longer one."""
        if self.asked:
            raise InterruptedError

    def end_kernel(self) -> None:
        """Kill what was started since, at most one kernel."""
        for process in set(psutil.Process().children()) - self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


papermill_engines.register("onelap", ReportingEngine)


def resolve_inputs(parameters: dict) -> list[str]:
    """Make the paths of notes and base absolute, in place; returns all that is wrong with the values."""
    problems = []

    def attempt(function, *values):
        try:
            return function(*values)
        except UserError as error:
            problems.append(str(error))

    if parameters["endpoint"]:
        attempt(check_address, parameters["endpoint"], parameters["allow_upload"])
    if parameters["embedding_model"]:
        parameters["embedding_model"] = str(attempt(locate_base, parameters["embedding_model"]))
    reporter = parameters["report_to"]
    if reporter != "none" and not importlib.util.find_spec(reporter):
        problems.append(f"report_to: {reporter} is not installed; `pip install {reporter}` does that")
    notes = attempt(locate_notes, parameters["notes_path"])
    fields = attempt(Fields.parse, *(parameters[name] for name in FIELD_PARAMETERS))
    if fields:
        attempt(parse_definitions, parameters["definitions"], fields.kinds)
    base = attempt(locate_base, parameters["base_model"])
    attempt(accumulation_steps, parameters["effective_batch"], parameters["micro_batch"])
    parameters["notes_path"] = str(notes)
    parameters["split_dir"] = str(find_path(parameters["split_dir"]).absolute())
    if base == find_path(parameters["base_model"]):  # a hub model keeps its name
        parameters["base_model"] = str(base)
    return problems


def run_lap(run: Run, parameters: dict, notebooks: list[Path] = NOTEBOOKS) -> None:
    """Execute the notebooks into the run folder, but for those whose work is still good, keeping `run.json` up to date.

    Raises UserError where a notebook found something that the user must change,
    NotebookFailed for any other end, KeyboardInterrupt for an interrupt. The failing notebook
    is kept, the later ones are not run.
    """
    # Every kernel inherits these. Without the first, `import trl` fails on Windows; one card is used.
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ[PROGRESS_VARIABLE] = str(run.path / ".progress")
    guard.record_in(run.path)
    started, before = time.monotonic(), run.record.get("spent_seconds", 0.0)
    status, error = "failed", None
    try:
        for notebook in notebooks:
            reason, began = why_again(run, notebook.stem), notebook.stem in run.record.get("notebooks", {})
            if began:
                print(f"{notebook.stem}  {(reason and f'again: {reason}') or 'kept'}", flush=True)
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
        seconds = round(before + time.monotonic() - started, 1)
        network = {"refused": len(guard.refused(run.path))}
        _note_end(run, status=status, error=error, finished=now(), actual={"seconds": seconds}, network=network)


def _run_notebook(run: Run, source: Path, parameters: dict) -> None:
    name, step = source.stem, step_of(source.stem)
    wanted = read_schema([source])
    values = {key: value for key, value in parameters.items() if key in wanted} | {"run_dir": str(run.path)}
    # Papermill rewrites its output in place; it gets its final name when it is whole.
    working, final = run.path / f".{name}.running.ipynb", run.path / f"{name}.ipynb"
    entry = {"status": "running", "started": now(), "read": digest(run, step.reads)}
    run.update(notebooks={name: entry})
    progress, interrupt = Progress(name, run.path / ".progress"), Interrupt()
    entry["status"] = "failed"

    def on_cell(number: int, of: int) -> None:
        interrupt.check()
        progress.on_cell(number, of)

    try:
        with progress, interrupt:
            notebook = papermill.execute_notebook(
                source,
                str(working).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                values,
                engine_name="onelap",
                progress_bar=False,
                on_cell=on_cell,
                cwd=str(run.path),
                config=KERNELS,
            )
            _refuse_early_exit(notebook)
        entry |= {"status": "done", "written": digest(run, step.writes)}
        interrupt.check()
    except Exception as error:
        show_text = parameters.get("show_text", True) or are_samples(parameters["notes_path"])
        if not show_text:
            _redact(working)
        if interrupt.asked:
            if entry["status"] != "done":
                entry["status"] = "interrupted"
            go_on = f"`onelap run --resume {run.path}` goes on"
            raise KeyboardInterrupt(f" in {progress.place}; what was finished is kept, {go_on}") from None
        raise _failure(error, progress, final, show_text) from None
    finally:
        interrupt.end_kernel()
        _keep(working, final)
        _note_end(run, notebooks={name: entry | {"seconds": progress.seconds}})


def _redact(working: Path) -> None:
    """Take what may quote a note out of a failed notebook; where that cannot be done, no notebook is left."""
    try:
        notebook = nbformat.read(working, as_version=4)
        redact_failure(notebook)
        nbformat.write(notebook, working)
    except (OSError, ValueError):  # a full disk, half a file
        working.unlink(missing_ok=True)


def _failure(error: Exception, progress: Progress, final: Path, show_text: bool) -> Exception:
    """The exception to raise for what papermill raised: the user's mistake, the machine's or ours."""
    if isinstance(error, PapermillExecutionError):
        if error.ename == "UserError":
            return UserError(f"{progress.name}: {error.evalue}")
        line = (error.evalue.splitlines() or [""])[0]
        message = line if show_text else withhold(error.ename, line)
        return NotebookFailed(
            f"{progress.place}: {error.ename}: {message}{_advice(f'{error.ename}: {line}')}; "
            f"the notebook with its traceback is {final}"
        )
    if isinstance(error, DeadKernelError):
        return NotebookFailed(
            f"{progress.place}: the kernel was killed, most often because memory ran out; {LESS_MEMORY}; "
            f"{final} shows how far it came"
        )
    if isinstance(error, OSError):
        return NotebookFailed(f"{progress.place}: {error}{_advice(str(error))}")
    return error


def _advice(error: str) -> str:
    """What to do about the failures that are not bugs."""
    return next((f"; {advice}" for sign, advice in ADVICE.items() if sign in error), "")


def _keep(working: Path, final: Path) -> None:
    """Give the executed notebook its name. A disk that filled up leaves half a file: that one goes."""
    try:
        nbformat.read(working, as_version=4)
    except FileNotFoundError:
        return
    except ValueError:  # what nbformat and json raise for half a file
        working.unlink()
    else:
        working.replace(final)


def _refuse_early_exit(notebook: nbformat.NotebookNode) -> None:
    """Papermill takes `SystemExit(0)` in a cell for success, though the later cells did not run."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise PapermillExecutionError(
                    index, cell.execution_count, cell.source, output.ename, output.evalue, output.traceback
                )


def _note_end(run: Run, **changes: object) -> None:
    """Record an end; on a full disk the message of the first error matters more than this one."""
    try:
        run.update(**changes)
    except OSError as error:
        print(f"run.json could not be brought up to date: {error}", file=sys.stderr)
