"""The commands; `--help` shows their docstrings. Each imports what it needs: help and completion must not wait."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from io import BufferedReader, FileIO
from pathlib import Path

from onelap import PROJECT, UserError, find_path, require_utf8

READ_AHEAD = 2  # forward passes: so many notes are read and ordered by length before the first of them is answered


def run(options: argparse.Namespace) -> None:
    """Run the five notebooks, from your notes to a comparison."""
    from onelap.lap.history import find_run
    from onelap.lap.resume import check_unchanged
    from onelap.lap.run import Run
    from onelap.lap.runner import resolve_inputs, run_lap
    from onelap.machine.store import read_json

    old = find_run(options.resume) if options.resume else None
    if old is None and (options.params is None or options.force_new):
        raise UserError("expected PARAMS.yaml or --resume RUN (--force-new needs --resume); see onelap run --help")
    if old and options.run and not options.force_new:
        raise UserError("--run names the folder of a new run: with --resume, it also needs --force-new")
    params = find_path(options.params) if options.params else None
    if old and not old.parameters:
        raise UserError(f"{old.params_path}: expected the parameters of this run, found none")
    parameters = _parameters(options, params or old.parameters, resolve_inputs)
    new = old is None or options.force_new
    lap = Run.create(params.name if params else old.record["params"], parameters, options.run) if new else old
    print(f"run folder: {lap.path}", flush=True)
    with lap.locked():
        if not new:
            check_unchanged(old, parameters)
        run_lap(lap, parameters)
    print(lap.path)
    print(read_json(lap.comparison_path)["sentence"])


def runs(options: argparse.Namespace) -> None:
    """List all runs, or show what differs between two."""
    import pandas as pd

    from onelap.lap.history import compare_runs, differences, find_run, list_runs
    from onelap.verdict.sentences import percent, points_with_interval

    if not options.run:
        table = list_runs(options.outputs)
        if table.empty:
            raise UserError(f"no runs in {options.outputs} yet; `onelap run params/embedded.yaml` makes one")
        for row in table.itertuples():
            seconds = "" if pd.isna(row.seconds) else f"{row.seconds:.0f} s"
            result = f"\n    {row.result}" if row.result else ""
            print(f"{row.run}  {row.status}  {row.params}  {seconds}\n    arms: {row.arms or 'none'}{result}")
        return
    if len(options.run) != 2:
        raise UserError(f"expected two runs to compare, or none to list all; found {len(options.run)}")
    a, b = (find_run(name, options.outputs) for name in options.run)
    for row in differences(a, b).itertuples():
        print(f"{row.what}: {row.a} → {row.b}")
    for arm, pair in compare_runs(a, b).items():
        before, after = (percent(run.read_arm(arm)[1]["accuracy"]["value"]) for run in (a, b))
        print(f"{arm}: {before} → {after} ({points_with_interval(pair['difference'])}; {pair['verdict']})")


def fetch(options: argparse.Namespace) -> None:
    """Download the base model; the only command that uses the network."""
    from onelap.machine import hub

    name = _parameters(options, find_path(options.params))["base_model"]
    if find_path(name).exists():
        return print(f"{name} is a folder on this machine; there is nothing to download")
    print(f"downloading {name}{hub.download_size(name)}", file=sys.stderr, flush=True)
    print(hub.fetch(name))


def plan(options: argparse.Namespace) -> None:
    """Predict memory and hours before anything is trained."""
    from onelap.lap.parameters import explain_parameters

    file = find_path(options.params)
    parameters = _parameters(options, file)
    if options.all:
        return print(*explain_parameters(parameters, file, options.parameter), sep="\n")
    from onelap.arms.base import is_downloaded
    from onelap.machine.precision import choose_precision
    from onelap.qlora.plan import forecast, rehearse

    precision = choose_precision(parameters["precision"])
    expected = forecast(parameters, precision)
    parts, hours = expected.cost(parameters)
    print(f"{parameters['base_model']}, {len(expected.notes)} notes to train on, {parameters['epochs']:g} epochs")
    for part, size in (parts | {"in total": sum(parts.values())}).items():
        print(f"    {part:30} {size:6.2f} GB")
    print(f"    {'available':30} {expected.memory_gb:6.2f} GB {expected.machine}")
    budget = f"{parameters['time_budget_hours']:g}, at {expected.rate / 1e12:.2g} TFLOP/s"
    print(f"    {'training':30} {hours:6.2f} hours of {budget}: from the shape and a matrix product")
    if expected.warning:
        print(expected.warning)
    if expected.here and is_downloaded(parameters["base_model"]):
        hours, peak = rehearse(parameters, precision)
        print(f"    {'some real steps say':30} {hours:6.2f} hours, {peak:.2f} GB at the peak")
    if not any(expected.excess(parameters)):
        return print("It fits.")
    changed, changes = expected.propose(parameters)
    if any(expected.excess(changed)):
        print(f"It does not fit, not even with {', '.join(changes) or 'any change'}: it needs a smaller base_model.")
    else:
        print(f"It does not fit. It would with the changes that cost least: {', '.join(changes)}.")


def doctor(options: argparse.Namespace) -> None:
    """Check this machine for what would stop a lap, and name the fix."""
    from onelap.lap.doctor import FAILURE, examine

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
    """Label notes in the terminal, one key a note, the most useful note first."""
    from onelap.daily.label import Labelling, most_suspicious_first, most_useful_first, walk
    from onelap.notes.fields import Fields
    from onelap.notes.labels import labels_path, read_labels
    from onelap.notes.vault import locate_notes, read_all

    if not sys.stdin.isatty():
        raise UserError("expected a terminal to show notes in, found none; run onelap label in one")
    parameters = _parameters(options, None)
    path, fields = locate_notes(options.notes), Fields.of(parameters)
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


def notes(options: argparse.Namespace) -> None:
    """Show what a lap would read of a folder or file of notes."""
    from onelap.daily.overview import Overview, as_json
    from onelap.lap.parameters import inspect_quickly
    from onelap.notes.fields import Fields
    from onelap.notes.read import Skip, read_each
    from onelap.notes.vault import locate_notes

    fields = Fields.of(_parameters(options, None, inspect=inspect_quickly))
    as_rows, overview, skipped = options.format == "jsonl", Overview(), []
    for item in read_each(locate_notes(options.notes), fields):
        overview.add(item)
        if isinstance(item, Skip):
            skipped.append(item)
        elif as_rows:
            print(as_json(item))
    for line in map(as_json, skipped) if as_rows else overview.lines():
        print(line)
    overview.refuse(fields, few=not as_rows)  # a program may want rows for something else than a lap


def sort(options: argparse.Namespace) -> None:
    """Print the kind of each new note."""
    from onelap.daily.answers import FORMATS, Tally
    from onelap.daily.inbox import STANDARD_INPUT, Inbox, batches
    from onelap.daily.sort import Sorter
    from onelap.lap.history import find_run, newest_finished_run
    from onelap.verdict.compare import SORTERS
    from onelap.verdict.sentences import name_of

    if options.min_confidence is not None and not 0 <= options.min_confidence <= 1:
        raise UserError(f"--min-confidence: expected 0 to 1, found {options.min_confidence:g}")
    if options.arm not in (None, *SORTERS):
        raise UserError(f"--arm: expected one of {', '.join(SORTERS)}, found {options.arm}")
    # Not sys.stdin: at the end Python would close it, though a thread may still wait for a line.
    stream = BufferedReader(FileIO(0, closefd=False)) if STANDARD_INPUT in options.path else None
    inbox = Inbox(options.path, stream)
    lap = find_run(options.run) if options.run else newest_finished_run(PROJECT / "outputs")
    arm = options.arm or lap.winner
    print(f"sorting with {name_of(arm)} ({arm}) of {lap.path}", file=sys.stderr, flush=True)
    with redirect_stdout(sys.stderr):  # what libraries print must not mix with the answers
        sorter = Sorter.load(lap, options.min_confidence, arm)
    write, tally = FORMATS[options.format](sys.stdout, list(sorter.calibration.offsets)), Tally()
    try:
        for batch in batches(inbox.items(sorter.fields), READ_AHEAD * lap.scoring["score_batch"]):
            with tally.at_work():
                answers = sorter.answer([item.text for item in batch])
            for item, answer in zip(batch, answers, strict=True):
                write(item, answer)
                tally.add(item, answer)
            sys.stdout.flush()
            tally.show()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; answers that are whole: {tally.notes}") from None
    tally.close(sorter.threshold, inbox.skipped)


def report(options: argparse.Namespace) -> None:
    """Write a run as one HTML file, for reading."""
    from onelap.lap.history import find_run
    from onelap.lap.report import write_report

    lap = find_run(options.run)
    file = (options.out or lap.path / "report.html").absolute()
    try:
        write_report(lap, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None
    print(file)


def export(options: argparse.Namespace) -> None:
    """Write a run's model as a folder that other programs load."""
    from onelap.daily.export import export
    from onelap.lap.history import find_run
    from onelap.verdict.compare import TUNED
    from onelap.verdict.sentences import name_of, percent, points_with_interval

    lap, folder = find_run(options.run), require_utf8(options.folder.absolute())
    check = export(lap, folder)
    answers, points = f"{check['changed']} of {check['n']} answers", points_with_interval(check["difference"])
    print(folder)
    print(f"{answers} differ from the adapter's ({points}); the verdict is the same")
    if lap.winner != TUNED:
        own, better = (f"{name_of(a)}: {percent(lap.read_arm(a)[1]['accuracy']['value'])}" for a in (TUNED, lap.winner))
        print(f"a folder holds what QLoRA has learnt ({own} right), not what this run sorts with ({better})")


def _parameters(options, source: Path | dict | None, check=lambda parameters: [], **inspect) -> dict:
    """Resolve parameters. Raises a UserError of all problems, those of `check` too; it names the fetch command."""
    from onelap.lap.parameters import read_parameters

    parameters, problems = read_parameters(source, options.parameter, **inspect)
    if problems := [*problems, *check(parameters)]:
        params = getattr(options, "params", None)
        fetched = " ".join([str(params), *(f"-p {one}" for one in options.parameter if one.startswith("base_model="))])
        message = "; ".join(problems).replace("PARAMS.yaml", fetched if params else "PARAMS.yaml")
        raise UserError((f"{params.name}: " if params else "") + message)
    return parameters
