"""The training of a run without its notebook, so that several processes can share it.

    accelerate launch --num_processes 2 -m onelap.train outputs/RUN

trains what `03_train` would, with the same effective batch, into the same files, but for the trainings with other
`seeds`; `onelap run --resume` then takes the result up and goes on. `time_budget_hours` counts from here.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from onelap import guard
from onelap.models import load_tokenizer, locate_base
from onelap.precision import choose_precision
from onelap.prompts import build_prompt
from onelap.recipe import Recipe
from onelap.runs import Run
from onelap.training import prepare_trainer, train


def main() -> None:
    """Raises UserError where the run folder lacks its parameters or its dataset."""
    parser = argparse.ArgumentParser(description="Train the adapter of a run, on as many processes as were launched.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder in which 01_data_prep is done")
    folder = parser.parse_args().run.absolute()
    Run(folder).require(folder / "params.yaml", "onelap run")
    guard.close()
    run = Run.open(folder)
    parameters = run.parameters
    base = locate_base(parameters["base_model"])
    prompt = build_prompt(load_tokenizer(base), run.read_manifest()["kinds"], parameters["max_length"])
    notes = run.read_part("train"), run.read_part("validation")
    trainer = prepare_trainer(
        base, prompt, choose_precision(parameters["precision"]), Recipe.of(parameters), *notes, run.training_path
    )
    accelerator = trainer.accelerator
    with run.locked() if accelerator.is_main_process else nullcontext():
        log = train(trainer, run.adapter_path, 3600 * parameters["time_budget_hours"])
    if accelerator.is_main_process:
        steps, seconds = trainer.state.global_step, log["elapsed_seconds"].max()
        print(f"{steps} steps by {accelerator.num_processes} processes in {seconds:.0f} s; {run.adapter_path}")


if __name__ == "__main__":
    main()
