"""The `onelap` command. Exit status: 0 done, 2 the user must change something, 1 anything else."""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

import pandas as pd

from onelap import PROJECT, NotebookFailed, UserError, find_path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # a Windows console defaults to a code page without → and ü
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # a closed terminal, a shutdown: as Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: signal.raise_signal(signal.SIGINT))
    logging.getLogger().addHandler(logging.NullHandler())  # what matters to the user is in the one line below
    traceback = False
    try:
        options = _parser().parse_args(arguments)
        traceback = options.traceback
        options.command(options)
    except UserError as error:
        return _complain(error, 2)
    except KeyboardInterrupt as interrupt:
        return _complain(f"interrupted{interrupt}", 1)
    except Exception as error:
        if traceback:
            raise
        return _complain(f"{_told(error)} (--traceback shows where)", 1)
    return 0


def run(options: argparse.Namespace) -> None:
    """`onelap run`: the five notebooks, or what is left of them."""
    from onelap.history import find_run
    from onelap.parameters import read_parameters
    from onelap.resume import check_unchanged, reopen
    from onelap.runner import resolve_inputs, run_lap
    from onelap.runs import Run, read_json

    old = find_run(options.resume, PROJECT / "outputs") if options.resume else None
    if old is None and (options.params is None or options.force_new):
        raise UserError("expected PARAMS.yaml or --resume RUN; --force-new goes with the latter; see onelap run --help")
    if old and options.run and not options.force_new:
        raise UserError("--run names the folder of a new run: it does not go with --resume, but for --force-new")
    params = find_path(options.params) if options.params else None
    if old and not old.parameters:
        raise UserError(f"{old.params_path}: expected the parameters of this run, found none")
    parameters, problems = read_parameters(params or old.parameters, options.parameter)
    problems += resolve_inputs(parameters)
    _refuse(problems, params)
    if old is None or options.force_new:
        lap = Run.create(params.name if params else old.record["params"], parameters, options.run)
    else:
        lap = old
    print(f"run folder: {lap.path}", flush=True)
    with lap.locked():
        if lap is old:
            check_unchanged(old, parameters)
            reopen(old)
        run_lap(lap, parameters)
    print(lap.path)
    print(read_json(lap.comparison_path)["sentence"])


def runs(options: argparse.Namespace) -> None:
    """`onelap runs`: a table of all runs, newest first, or what differs between two."""
    if options.run:
        return _two_runs(options)
    from onelap.history import list_runs

    table = list_runs(options.outputs)
    if table.empty:
        raise UserError(f"no runs in {options.outputs} yet; `onelap run params/embedded.yaml` makes one")
    for row in table.itertuples():
        seconds = "" if pd.isna(row.seconds) else f"{row.seconds:.0f} s"
        print(f"{row.run}  {row.status}  {row.params}  {seconds}\n    arms: {row.arms or 'none'}")
        if row.result:
            print(f"    {row.result}")


def _two_runs(options: argparse.Namespace) -> None:
    from onelap.evaluation import percent, points
    from onelap.history import compare_runs, differences, find_run

    if len(options.run) != 2:
        raise UserError(f"expected two runs to compare, or none to list all; found {len(options.run)}")
    a, b = (find_run(name, options.outputs) for name in options.run)
    for row in differences(a, b).itertuples():
        print(f"{row.what}: {row.a} → {row.b}")
    for arm, pair in compare_runs(a, b).items():
        gain = {name: points(value) for name, value in pair["difference"].items()}
        before, after = (percent(run.read_arm(arm)[1]["accuracy"]["value"]) for run in (a, b))
        interval = "{value:+d} points, 95 % interval {low} to {high}".format(**gain)
        print(f"{arm}: {before} → {after} ({interval}; {pair['verdict']})")


def fetch(options: argparse.Namespace) -> None:
    """`onelap fetch`: download the base model that a parameter file names."""
    os.environ["HF_HUB_OFFLINE"] = "0"  # before huggingface_hub reads it
    from onelap.models import fetch_base
    from onelap.parameters import read_parameters

    params = find_path(options.params)
    parameters, problems = read_parameters(params, options.parameter)
    _refuse(problems, params)
    name = str(parameters["base_model"])
    if find_path(name).exists():
        print(f"{name} is a folder on this machine; there is nothing to download")
    else:
        print(fetch_base(name))


def plan(options: argparse.Namespace) -> None:
    """`onelap plan`: memory and hours of a training; from real steps too, where the base is on this machine."""
    from onelap.models import is_here
    from onelap.parameters import read_parameters
    from onelap.plan import Setting, forecast, rehearse
    from onelap.precision import choose_precision

    params = find_path(options.params)
    parameters, problems = read_parameters(params, options.parameter)
    _refuse(problems, params)
    precision = choose_precision(parameters["precision"])
    expected, setting = forecast(parameters, precision), Setting.of(parameters)
    parts, hours = expected.cost(setting)
    print(f"{parameters['base_model']}, {len(expected.notes)} notes to train on, {setting.epochs:g} epochs")
    for part, size in (parts | {"together": sum(parts.values())}).items():
        print(f"    {part:30} {size:6.2f} GB")
    print(f"    {'there is':30} {expected.memory_gb:6.2f} GB {expected.on}")
    print(f"    {'training':30} {hours:6.2f} hours of {expected.hours:g}, at {expected.rate / 1e12:.2g} TFLOP/s")
    if expected.here and is_here(parameters["base_model"]):
        hours, peak = rehearse(parameters, precision)
        print(f"    {'some real steps say':30} {hours:6.2f} hours, {peak:.2f} GB at the peak")
    if not any(expected.exceeded(setting)):
        return print("It fits.")
    changed, changes = expected.proposal(setting)
    if any(expected.exceeded(changed)):
        print(f"It does not fit, not even with {', '.join(changes) or 'any change'}: it needs a smaller base_model.")
    else:
        print(f"It does not fit. It would with the changes that cost least: {', '.join(changes)}.")


def doctor(options: argparse.Namespace) -> None:
    """`onelap doctor`: what would stop a lap on this machine, and the fix."""
    import json
    from dataclasses import asdict

    from onelap.doctor import FAILURE, examine

    checks = examine()
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        for check in checks:
            fix = f"\n{'':9}fix: {check.fix}" if check.fix else ""
            print(f"{check.state:8} {check.subject}: {check.found}{fix}")
    failures = [check.subject for check in checks if check.state == FAILURE]
    if failures:
        raise UserError(f"a lap would fail here, because of: {', '.join(failures)}; the fixes are above")


def label(options: argparse.Namespace) -> None:
    """`onelap label`: a walk through notes in the terminal."""
    from onelap.labelling import Labelling, most_suspicious_first, most_useful_first, walk
    from onelap.notes import FIELD_PARAMETERS, Fields, labels_path, locate_notes, read_all, read_labels
    from onelap.parameters import read_parameters

    if not sys.stdin.isatty():
        raise UserError("expected a terminal to show notes in, found none; run onelap label in one")
    parameters, problems = read_parameters(None, options.parameter)
    _refuse(problems)
    path, fields = locate_notes(options.notes), Fields.parse(*(parameters[name] for name in FIELD_PARAMETERS))
    reading = read_all(path, fields)
    if options.review:
        queue = most_suspicious_first(reading.notes)
        queue = queue[~queue["id"].isin(read_labels(path))]
    else:
        queue = most_useful_first(reading.unlabelled, reading.notes)
    if queue.empty:
        raise UserError(f"{path}: no note to {'review' if options.review else 'label'}")
    walk(Labelling(queue, path), list(fields.kinds))
    print(f"labels given so far: {len(read_labels(path))}, in {labels_path(path)}; every run on these notes reads them")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="onelap",
        description="From a folder of notes to a small local classifier, in five notebooks. Nothing is uploaded.",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an unexpected error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function, summary: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            function.__name__, help=summary, description=summary, epilog=f"example: {example}"
        )
        command.set_defaults(command=function)
        return command

    def add_file(command: argparse.ArgumentParser) -> None:
        command.add_argument("params", type=Path, metavar="PARAMS.yaml", help="a parameter file, see params/")

    def add_overrides(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "-p",
            dest="parameter",
            action="append",
            default=[],
            metavar="name=value",
            help="set one parameter; may be repeated",
        )

    command = add(run, "run the five notebooks", "onelap run params/one_lap.yaml -p notes_path=~/vault")
    command.add_argument("params", type=Path, nargs="?", metavar="PARAMS.yaml", help="a parameter file, see params/")
    add_overrides(command)
    command.add_argument("--resume", metavar="RUN", help="go on with a run that stopped, by its folder or name")
    command.add_argument(
        "--force-new", action="store_true", help="with --resume: a new run with its parameters; the old one stays"
    )
    command.add_argument("--run", type=Path, metavar="DIR", help="the run folder (default: a new one below outputs/)")

    command = add(runs, "list all runs, newest first, or say what differs between two", "onelap runs RUN_A RUN_B")
    command.add_argument("run", nargs="*", metavar="RUN", help="two runs' folders, or names below outputs/")
    command.add_argument("--outputs", type=Path, default=PROJECT / "outputs", metavar="DIR", help="where the runs are")

    command = add(
        fetch,
        "download the base model; the only command that goes online",
        "onelap fetch params/one_lap.yaml",
    )
    add_file(command)
    add_overrides(command)

    command = add(plan, "predict memory and hours before anything is trained", "onelap plan params/one_lap.yaml")
    add_file(command)
    add_overrides(command)

    command = add(doctor, "check this machine and name the fix for each trap", "onelap doctor")
    command.add_argument("--json", action="store_true", help="the same for programs")

    command = add(label, "give kinds to notes, one key a note, the most useful first", "onelap label ~/vault")
    command.add_argument("notes", metavar="PATH", help="folder, .jsonl or .csv file; labels are stored beside it")
    command.add_argument("--review", action="store_true", help="notes whose kind looks wrong instead, worst first")
    add_overrides(command)
    return parser


def _refuse(problems: list[str], params: Path | None = None) -> None:
    if problems:
        raise UserError((f"{params.name}: " if params else "") + "; ".join(problems))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, NotebookFailed) else f"{type(error).__name__}: {error}"


def _complain(message: object, status: int) -> int:
    """Print one line on standard error, whatever line breaks the message has."""
    print(f"onelap: {' '.join(str(message).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
