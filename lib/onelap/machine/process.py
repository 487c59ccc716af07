"""Settings of a whole process, made by the command and by the first cell of a notebook, not by importing."""

import atexit
import gc
import logging
import os
import warnings

# These are addressed to the authors of other libraries, not to the reader of a notebook.
IRRELEVANT_WARNINGS = ["IProgress not found", r"`(is_)?gradient_checkpointing(_enable)?` is deprecated"]
IRRELEVANT_LOGGERS = [
    "bitsandbytes.backends.cpu.ops",  # recommends a kernel from the hub; its own works
    "transformers.trainer_utils",  # reports that the trainer takes over the tokenizer's special tokens
    "transformers.integrations.bitsandbytes",  # warns that NF4 weights are unpacked, as an export must
]


def prepare(online: bool = False) -> None:
    """Keep the libraries offline and quiet, and collect garbage less often; call it before they are imported.

    `online` lets the model hub's client reach the hub, for `onelap fetch`. Telemetry stays off.
    """
    os.environ |= {"HF_HUB_OFFLINE": "0" if online else "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    # The libraries hold a million objects that stay. Searching them for garbage again and again during imports, and
    # once more at exit, takes longer than most commands (docs/LOG.md).
    gc.set_threshold(100_000, 10, 10)
    atexit.register(gc.freeze)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in IRRELEVANT_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
