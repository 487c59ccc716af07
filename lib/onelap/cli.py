"""The `onelap` command. Exit status: 0 done, 2 the user must change something, 1 anything else."""

# PYTHON_ARGCOMPLETE_OK

import argparse
import logging
import os
import signal
import sys

import argcomplete
import yaml
from argcomplete.completers import FilesCompleter

from onelap import PROJECT, NotebookFailed, UserError, commands, expand_path
from onelap.daily.answers import FORMATS
from onelap.machine import guard, process


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A Windows console may use a code page without → and ü. Half an emoji is printed as an escape, as in JSON.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # closing the terminal and shutting down work like Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: signal.raise_signal(signal.SIGINT))
    logging.getLogger().addHandler(logging.NullHandler())  # the user gets one line, from below
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers cards as nvidia-smi does; kernels inherit it
    options = None
    try:
        options = parse(arguments)
        os.umask(0o077)  # only their owner can read files that are made from private notes
        online = options.command is commands.fetch
        process.prepare(online)
        if not online:
            guard.close()
        try:
            options.command(options)
        finally:
            if guard.attempts():
                print(f"refused to connect beyond this machine: {'; '.join(guard.attempts())}", file=sys.stderr)
    except UserError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        return _complain(f"interrupted{interrupt}", 1)
    except Exception as error:
        if options and options.traceback:
            raise
        name = "" if isinstance(error, NotebookFailed) else f"{type(error).__name__}: "
        return _complain(f"{name}{error} (--traceback shows where)", 1)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or answer the shell's request for completions and exit. Raises UserError."""
    parser = _Parser(
        prog="onelap",
        description="Train a small local model to sort your notes into kinds, and measure whether that has helped. "
        "Nothing is uploaded.",
        epilog="to begin: `onelap doctor`, then `onelap run params/embedded.yaml` (some minutes, on sample notes)",
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an unexpected error occurred")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    file, folder = {"type": expand_path, "metavar": "FILE"}, {"type": expand_path, "metavar": "DIR"}

    overrides = _Parser(add_help=False)
    repeated = {"dest": "parameter", "action": "append", "default": [], "metavar": "name=value"}
    overrides.add_argument("-p", **repeated, help="set one parameter; may be repeated").completer = _parameter_names

    def add(function, example: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        summary = (function.__doc__ or "").partition("\n")[0]  # `python -OO` has none
        help_line = summary[:1].lower() + summary[1:].removesuffix(".")
        texts = {"help": help_line, "description": summary, "epilog": f"example: {example}"}
        command = subparsers.add_parser(function.__name__, parents=parents, **texts)
        command.set_defaults(command=function)
        return command

    command = add(commands.run, "onelap run params/one_lap.yaml -p notes_path=~/vault", overrides)
    _add_parameters(command, nargs="?")
    _add_run(command, "--resume", "continue this run, given by its folder or name, where it stopped")
    restarted = "with --resume: start a new run with the parameters of the old one, which stays as it is"
    command.add_argument("--force-new", action="store_true", help=restarted)
    command.add_argument("--run", **folder, help="folder of the new run (default: one in outputs/)")

    command = add(commands.plan, "onelap plan params/full.yaml", overrides)
    _add_parameters(command)
    command.add_argument("--all", action="store_true", help="only print each parameter with meaning, value and origin")

    command = add(commands.doctor, "onelap doctor")
    command.add_argument("--json", action="store_true", help="print the checks as JSON")

    _add_parameters(add(commands.fetch, "onelap fetch params/one_lap.yaml", overrides))

    command = add(commands.runs, "onelap runs RUN_A RUN_B")
    _add_run(command, "run", "two runs to compare, by their folders or names (default: list all runs)", nargs="*")
    command.add_argument("--outputs", **folder, default=PROJECT / "outputs", help="folder of runs (default: outputs/)")

    command = add(commands.report, "onelap report RUN")
    _add_run(command, "run")
    command.add_argument("--out", **file, help="HTML file (default: report.html in the run folder)")

    command = add(commands.notes, "onelap notes ~/vault -p kinds='idea, task, none'", overrides)
    command.add_argument("notes", metavar="PATH", help="folder, or file of rows (.jsonl, .csv, …)")
    command.add_argument("--format", choices=["table", "jsonl"], default="table", help="format (default: table)")

    command = add(commands.label, "onelap label ~/vault", overrides)
    notes = "folder, or file of rows, of notes; the labels are stored beside it, never in it"
    command.add_argument("notes", metavar="PATH", help=notes)
    command.add_argument("--review", action="store_true", help="show notes whose kind looks wrong, the worst first")

    command = add(commands.sort, "onelap sort inbox/ --format table")
    paths = "file or folder of notes; - reads one JSON object a line from standard input and answers each at once"
    command.add_argument("path", nargs="+", metavar="PATH", help=paths)
    _add_run(command, "--run", "run whose model sorts (default: the newest finished one)")
    arms = "blend, probe, tfidf or qlora (default: the arm that did best on the validation notes)"
    command.add_argument("--arm", metavar="ARM", help=arms)
    command.add_argument("--format", choices=FORMATS, default="jsonl", help="format of the answers (default: jsonl)")
    sure = "probability from which an answer counts as sure, 0 to 1 (default: the run's own threshold)"
    command.add_argument("--min-confidence", type=float, metavar="P", help=sure)

    command = add(commands.export, "onelap export RUN ~/models/my-notes")
    _add_run(command, "run")
    command.add_argument("folder", **folder, help="folder to write: a new or an empty one")
    argcomplete.autocomplete(parser)
    return parser.parse_args(arguments)


def _add_parameters(command: argparse.ArgumentParser, **options) -> None:
    meaning = "parameter file, such as params/one_lap.yaml"
    argument = command.add_argument("params", type=expand_path, metavar="PARAMS.yaml", help=meaning, **options)
    argument.completer = FilesCompleter(["yaml"])


def _parameter_names(**_) -> list[str]:
    """Read from the file that holds every parameter: quicker than from the notebooks, and a shell waits for it."""
    return [f"{name}=" for name in yaml.safe_load((PROJECT / "params/embedded.yaml").read_text(encoding="utf-8"))]


def _add_run(command, name: str, meaning="the run, by its folder or its name in outputs/", **options) -> None:
    argument = command.add_argument(name, metavar="RUN", help=meaning, **options)
    argument.completer = lambda **_: [path.parent.name for path in (PROJECT / "outputs").glob("*/run.json")]


def _complain(message: object, status: int) -> int:
    """Print one line on standard error, whatever line breaks the message has."""
    print(f"onelap: {' '.join(str(message).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
