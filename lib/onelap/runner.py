"""The five notebooks of a lap, one after the other, through papermill."""

import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from onelap import NotebookFailed, UserError, find_path
from onelap.models import locate_base
from onelap.notes import locate_notes
from onelap.parameters import NOTEBOOKS, read_schema
from onelap.runs import Run, now

# Note text passes between runner and kernel over loopback; other users of the machine could listen.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
LESS_MEMORY = "a smaller micro_batch, score_batch or max_length needs less"
ADVICE = {
    "OutOfMemory": LESS_MEMORY,
    "No space left": "free some space or choose another disk with --run DIR",
}
HEARTBEAT = {True: 1.0, False: 60.0}  # seconds between signs of life, on a terminal and in a log


class ReportingEngine(NBClientEngine):
    """Papermill's engine, telling `on_cell(index)` which cell starts."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, on_cell, **options):
        """Execute the notebook held by papermill's `nb_man`."""
        start = nb_man.cell_start

        def report(cell, cell_index=None, **details):
            on_cell(cell_index)
            start(cell, cell_index, **details)

        nb_man.cell_start = report
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register("onelap", ReportingEngine)


def check_inputs(parameters: dict) -> None:
    """Raise one UserError with everything that is wrong about the notes' and the base's paths."""
    problems = []
    for locate, name in (locate_notes, "notes_path"), (locate_base, "base_model"):
        try:
            parameters[name] = _portable(locate, parameters[name])
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))


def run_lap(run: Run, parameters: dict, notebooks: list[Path] = NOTEBOOKS) -> None:
    """Execute the notebooks into the run folder, keeping `run.json` up to date.

    Raises UserError where a notebook found something that the user must change,
    NotebookFailed for any other end, KeyboardInterrupt for an interrupt. The failing notebook
    is kept, the later ones are not run.
    """
    # Every kernel inherits it: without, `import trl` fails on Windows.
    os.environ["PYTHONUTF8"] = "1"
    started = time.monotonic()
    try:
        for notebook in notebooks:
            _run_notebook(run, notebook, parameters)
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except BaseException:
        status = "failed"
        raise
    finally:
        seconds = round(time.monotonic() - started, 1)
        _note_end(run, status=status, finished=now(), actual={"seconds": seconds})


def _run_notebook(run: Run, source: Path, parameters: dict) -> None:
    name = source.stem
    wanted = read_schema([source])
    values = {key: value for key, value in parameters.items() if key in wanted} | {"run_dir": str(run.path)}
    # Papermill rewrites its output in place; it gets its final name when it is whole.
    working, final = run.path / f".{name}.running.ipynb", run.path / f"{name}.ipynb"
    cells = len(nbformat.read(source, as_version=4).cells) + 1  # and the injected parameters
    started = time.monotonic()
    status = "failed"
    run.update(notebooks={name: {"status": "running", "started": now()}})
    children = set(psutil.Process().children())
    try:
        with _progress(name, cells) as on_cell:
            notebook = papermill.execute_notebook(
                source,
                str(working).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                values,
                engine_name="onelap",
                progress_bar=False,
                on_cell=on_cell,
                cwd=str(run.path),
                config=ENCRYPTED,
            )
            _refuse_early_exit(notebook)
        status = "done"
    except PapermillExecutionError as error:
        raise _failure(error, name, final) from None
    except DeadKernelError:
        told = f"{name}: the kernel was killed, most often because memory ran out; {final} shows how far it came"
        raise NotebookFailed(f"{told}; {LESS_MEMORY}") from None
    except OSError as error:
        raise NotebookFailed(f"{name}: {error}{_advice(str(error))}") from None
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        _end_kernels(children)
        _keep(working, final)
        seconds = round(time.monotonic() - started, 1)
        _note_end(run, notebooks={name: {"status": status, "seconds": seconds}})


def _failure(error: PapermillExecutionError, name: str, final: Path) -> Exception:
    """The exception for a cell that raised: the user's mistake or ours."""
    if error.ename == "UserError":
        return UserError(f"{name}: {error.evalue}")
    line = f"{error.ename}: {(error.evalue.splitlines() or [''])[0]}"
    return NotebookFailed(
        f"{name}, cell {error.cell_index + 1}: {line}; the notebook with its traceback is {final}{_advice(line)}"
    )


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


def _end_kernels(before: set[psutil.Process]) -> None:
    """An interrupted papermill leaves its kernel behind, with the memory that it holds."""
    for process in set(psutil.Process().children()) - before:
        process.kill()


@contextmanager
def _progress(name: str, cells: int):
    """Show the notebook, the cell and the time; yields the function that papermill's engine calls."""
    terminal = sys.stdout.isatty()
    started, cell, finished = time.monotonic(), [0], threading.Event()

    def line() -> str:
        return f"{name}  cell {cell[0]}/{cells}  {time.monotonic() - started:.0f} s"

    def show() -> None:
        while not finished.wait(HEARTBEAT[terminal]):
            print(f"\r{line()} " if terminal else line(), end="" if terminal else "\n", flush=True)

    def on_cell(index: int) -> None:
        cell[0] = index + 1

    ticker = threading.Thread(target=show, daemon=True)
    ticker.start()
    try:
        yield on_cell
    finally:
        finished.set()
        ticker.join()
        print(f"\r{line()} " if terminal else line(), flush=True)


def _portable(locate, name: str) -> str:
    """The absolute path of a local folder or file; a hub model keeps its name."""
    located = locate(name)
    return str(located) if find_path(name) == located else name
