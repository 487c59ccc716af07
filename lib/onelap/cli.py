"""The `onelap` command. Exit status: 0 done, 2 the user must change something, 1 anything else."""

# PYTHON_ARGCOMPLETE_OK

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

import argcomplete
import yaml
from argcomplete.completers import FilesCompleter

from onelap import PROJECT, NotebookFailed, UserError, commands
from onelap.daily.answers import FORMATS
from onelap.machine import guard, process


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A Windows console defaults to a code page without → and ü; half an emoji becomes its escape, as in JSON.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # a closed terminal, a shutdown: as Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: signal.raise_signal(signal.SIGINT))
    logging.getLogger().addHandler(logging.NullHandler())  # what matters to the user is in the one line below
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # cards are counted as nvidia-smi does, in kernels too
    traceback = False
    try:
        options = parse(arguments)
        traceback = options.traceback
        os.umask(0o077)  # what is made of private notes, nobody else on this machine may read
        online = options.command is commands.fetch
        process.prepare(online)
        if not online:
            guard.close()
        try:
            options.command(options)
        finally:
            if guard.attempts():
                print(f"refused to reach beyond this machine: {'; '.join(guard.attempts())}", file=sys.stderr)
    except UserError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        return _complain(f"interrupted{interrupt}", 1)
    except Exception as error:
        if traceback:
            raise
        return _complain(f"{_told(error)} (--traceback shows where)", 1)
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What was typed; the process ends here where the shell only asks what could follow. Raises UserError."""
    parser = _parser()
    argcomplete.autocomplete(parser)
    return parser.parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="onelap",
        description="From a folder of notes to a small local classifier, in five notebooks. Nothing is uploaded.",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an unexpected error came from")
    known = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function, summary: str, example: str) -> argparse.ArgumentParser:
        command = known.add_parser(function.__name__, help=summary, description=summary, epilog=f"example: {example}")
        command.set_defaults(command=function)
        return command

    command = add(commands.run, "run the five notebooks", "onelap run params/one_lap.yaml -p notes_path=~/vault")
    _add_parameters(command, nargs="?")
    _add_run(command, "--resume", "go on with a run that stopped, by its folder or name")
    command.add_argument(
        "--force-new", action="store_true", help="with --resume: a new run with its parameters; the old one stays"
    )
    command.add_argument("--run", type=Path, metavar="DIR", help="the run folder (default: a new one below outputs/)")

    command = add(commands.plan, "predict memory and hours before anything is trained", "onelap plan params/full.yaml")
    _add_parameters(command)

    command = add(commands.doctor, "check this machine and name the fix for each trap", "onelap doctor --json")
    command.add_argument("--json", action="store_true", help="the same for programs")

    online = "download the base model; the only command that goes online"
    _add_parameters(add(commands.fetch, online, "onelap fetch params/one_lap.yaml"))

    command = add(commands.runs, "list all runs, or say what differs between two", "onelap runs RUN_A RUN_B")
    _add_run(command, "run", "two runs' folders, or names below outputs/", nargs="*")
    command.add_argument("--outputs", type=Path, default=PROJECT / "outputs", metavar="DIR", help="where the runs are")

    command = add(commands.report, "one HTML file of a run, for reading", "onelap report RUN")
    _add_run(command, "run", "the run, by its folder or its name below outputs/")
    command.add_argument("--out", type=Path, metavar="FILE", help="where to (default: report.html in the run folder)")

    command = add(commands.label, "give kinds to notes, one key a note, the most useful first", "onelap label ~/vault")
    command.add_argument("notes", metavar="PATH", help="folder, .jsonl or .csv file; labels are stored beside it")
    command.add_argument("--review", action="store_true", help="notes whose kind looks wrong instead, worst first")
    _add_overrides(command)

    command = add(commands.sort, "name the kind of each note", "onelap sort inbox/ --format table")
    rows = "file, folder, .jsonl or .csv; - reads a JSON object a line from standard input, and answers each at once"
    command.add_argument("path", nargs="+", metavar="PATH", help=rows)
    _add_run(command, "--run", "the run to sort by (default: the newest that was finished and did no harm)")
    command.add_argument("--format", choices=FORMATS, default="jsonl", help="of the answers (default: %(default)s)")
    sure = "probability from which an answer is sure (default: the run's own threshold)"
    command.add_argument("--min-confidence", type=float, metavar="P", help=sure)

    merged = "merge an adapter into its base, as a model folder that other programs load"
    command = add(commands.export, merged, "onelap export RUN ~/models/my-notes")
    _add_run(command, "run", "the run, by its folder or its name below outputs/")
    command.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    return parser


def _add_parameters(command: argparse.ArgumentParser, **options) -> None:
    argument = command.add_argument(
        "params", type=Path, metavar="PARAMS.yaml", help="a parameter file, see params/", **options
    )
    argument.completer = FilesCompleter(["yaml"])
    _add_overrides(command)


def _add_overrides(command: argparse.ArgumentParser) -> None:
    repeated = {"dest": "parameter", "action": "append", "default": [], "metavar": "name=value"}
    argument = command.add_argument("-p", **repeated, help="set one parameter; may be repeated")
    argument.completer = _known_parameters


def _known_parameters(**_) -> list[str]:
    known = yaml.safe_load((PROJECT / "params" / "embedded.yaml").read_text(encoding="utf-8"))
    return [f"{name}=" for name in known]


def _add_run(command: argparse.ArgumentParser, name: str, meaning: str, **options) -> None:
    argument = command.add_argument(name, metavar="RUN", help=meaning, **options)
    argument.completer = lambda **_: [path.parent.name for path in (PROJECT / "outputs").glob("*/run.json")]


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, NotebookFailed) else f"{type(error).__name__}: {error}"


def _complain(message: object, status: int) -> int:
    """Print one line on standard error, whatever line breaks the message has."""
    print(f"onelap: {' '.join(str(message).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
