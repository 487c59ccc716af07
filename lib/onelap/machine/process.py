"""Settings of a whole process, made by the command and by the first cell of a notebook.

Importing the library makes none of them, so that a program that uses it keeps its own.
"""

import atexit
import gc
import logging
import os
import warnings

# What these say is for the authors of other libraries, not for the reader of a notebook.
IRRELEVANT_WARNINGS = {
    "IProgress not found": Warning,
    r"`(is_)?gradient_checkpointing(_enable)?` is deprecated": FutureWarning,
}
IRRELEVANT_LOGGERS = [
    "bitsandbytes.backends.cpu.ops",  # it would like a kernel from the hub; its own does
    "transformers.trainer_utils",  # the trainer aligns the model's special tokens with the tokenizer's
    "transformers.integrations.bitsandbytes",  # NF4 weights were unpacked, which an export is for
]


def prepare(online: bool = False) -> None:
    """Keep the libraries offline and quiet, and collect garbage less often; call it before they are imported.

    `online` lets the model hub's client reach the hub, for `onelap fetch`. Telemetry stays off.
    """
    os.environ["HF_HUB_OFFLINE"] = "0" if online else "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    # The libraries are a million objects that stay. Searching them for garbage again and again while they are
    # imported, and once more at the end, takes longer than most commands (docs/LOG.md).
    gc.set_threshold(100_000, 10, 10)
    atexit.register(gc.freeze)
    for message, category in IRRELEVANT_WARNINGS.items():
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in IRRELEVANT_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
