"""One Lap: from a folder of private notes to a small local classifier.

One module a subject, in the order in which a lap uses them:

    parameters   the notebooks' parameters cells as a schema; reading and checking values
    runner       the five notebooks through papermill
    discretion   a failed cell does not quote the notes
    resume       what of a run that stopped is still good
    progress     the line that says how far long work is
    guard        nothing reaches beyond this machine
    machine      what this machine is
    doctor       checks it, and names the fix for each trap
    runs         the run folder and its record, run.json
    decoding     which encoding a text file is in
    files        files below a folder, and the text in them
    markup       front matter, tags, and what gives a note's kind away
    rows         JSON lines and CSV
    dates        when notes were written
    notes        reading labelled notes
    labelling    giving kinds to notes in the terminal
    duplicates   notes that repeat each other
    split        train, validation and test, with every source on one side
    baselines    the arms that need no language model
    prompts      a note as the model sees it; what is cut when it is too long
    precision    which number format goes where on this device
    memory       a cap, and smaller pieces where memory runs out
    shapes       what of a model decides its size
    models       loading the base in 4 bits, adapters
    generation   an answer that is written and parsed, to compare with
    endpoint     a general model behind a server on this machine
    scoring      the probability of every kind, in one forward pass
    recipe       what a training is asked to do
    trainer      TRL's trainer for our question: loss, memory, checkpoints
    training     QLoRA, from base and notes to an adapter
    callbacks    its log, its end when time is up
    checkpoints  whole or not at all, and nothing pickled
    train        the training alone, for several processes
    sharding     a base that is spread over them
    plan         memory and time of a training, before it
    calibration  what is corrected after training
    evaluation   metrics with intervals, arms compared in pairs, the verdict
    history      all runs side by side, and what differs between two
    figures      every figure of the notebooks
    report       one HTML file of a run
    sorting      new notes, with the model of a run that stays loaded
    inbox        where they come from
    answers      how they are told
    export       adapter and base as one model for other programs
    card         what is said of it
    commands     what each command does
    cli          the `onelap` command: options, completion, exit status
"""

import atexit
import gc
import logging
import os
import warnings
from pathlib import Path

# Set before any Hugging Face library is imported: nothing is looked up, nothing is reported.
# `onelap fetch` alone goes online, and asks for it itself.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"

# The libraries are a million objects that stay. To look for garbage among them, again and again while they are imported
# and once more at the end, takes longer than most commands.
gc.set_threshold(100_000, 10, 10)
atexit.register(gc.freeze)

# Said by the libraries to each other, not to a reader of the notebooks.
warnings.filterwarnings("ignore", message="IProgress not found")
warnings.filterwarnings(
    "ignore", message=r"`(is_)?gradient_checkpointing(_enable)?` is deprecated", category=FutureWarning
)
# bitsandbytes would like a kernel from the hub; its own does.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# The trainer aligns the model's special tokens with the tokenizer's, and says so.
logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
# That NF4 weights were unpacked, which an export is for.
logging.getLogger("transformers.integrations.bitsandbytes").setLevel(logging.ERROR)

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds notebooks/, params/, data/ and outputs/."""


class UserError(Exception):
    """Something that the user must change; the message says what was expected, found, and the fix.

    The command line prints the message as one line and exits with status 2, also when a
    notebook raised it.
    """


class NotebookFailed(Exception):
    """A notebook did not reach its end; the message names the cell and what to do."""


def find_path(name: str | Path) -> Path:
    """Resolve a path from a parameter: `~`, then the working directory, then the project.

    The notebooks run from the project, from `notebooks/` (JupyterLab) or from anywhere
    (papermill), and their default parameters must mean the same files each time. A path that
    is still to be made goes where its parent folder is found.
    """
    path = Path(name).expanduser()
    candidates = [path.absolute(), PROJECT / path]
    for wanted in candidates, [candidate.parent for candidate in candidates]:
        for candidate, found in zip(candidates, wanted, strict=True):
            if found.exists():
                return candidate
    return candidates[0]
