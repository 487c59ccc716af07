"""The training of a run without its notebook, so that several processes can share it (docs/SEVERAL_GPUS.md).

This trains what 03_train would, with the same effective batch, into the same files; the trainings with other `seeds`
are left to 03_train. `onelap run --resume` then takes over the result. `time_budget_hours` counts from here.
"""

import argparse
import io
import os
import sys
from contextlib import nullcontext, redirect_stdout

from onelap import UserError, expand_path
from onelap.machine import guard, process

IS_FIRST = os.environ.get("RANK", "0") == "0"  # of the processes; it prints for all


def main() -> None:
    """Train on the launched processes. Raises UserError where the run lacks its parameters or its dataset."""
    parser = argparse.ArgumentParser(description="Train the adapter of a run, on as many processes as were launched.")
    parser.add_argument("run", type=expand_path, metavar="RUN", help="a run folder in which 01_data_prep is done")
    parser.add_argument("--shard", action="store_true", help="spread the base over the processes (FSDP)")
    arguments = parser.parse_args()
    process.prepare()
    from onelap.lap.run import Run  # not above: the libraries that it imports must find the process prepared

    run = Run(arguments.run)
    run.require(run.params_path, "onelap run")
    guard.close()
    run = Run.open(run.path)
    with nullcontext() if IS_FIRST else redirect_stdout(io.StringIO()):
        trainer = train_run(run, arguments.shard)
    if IS_FIRST:
        print(f"{trainer.state.global_step} steps by {trainer.args.world_size} processes; {run.adapter_path}")


def train_run(run, sharded: bool):
    """Train a `Run`'s adapter with the other processes; returns the trainer. Raises UserError for a wrong launch."""
    from onelap.arms.base import load_tokenizer, locate_base
    from onelap.arms.prompts import build_prompt
    from onelap.machine.precision import choose_precision
    from onelap.qlora.recipe import Recipe, processes
    from onelap.qlora.training import prepare_trainer, train

    if sharded and processes() == 1:
        raise UserError("--shard: expected several processes, found one; accelerate launch --num_processes 2 ...")
    if sys.platform == "win32" and processes() > 1:
        raise UserError("several processes: PyTorch has no NCCL on Windows; use Linux, or WSL")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise UserError("expected --shard after the run, found Accelerate's --use_fsdp; leave it out")
    parameters = run.parameters
    base = locate_base(parameters["base_model"])
    prompt = build_prompt(load_tokenizer(base), run.read_manifest()["kinds"], parameters["max_length"])
    notes = run.read_part("train"), run.read_part("validation")
    precision, recipe = choose_precision(parameters["precision"]), Recipe.of(parameters)
    trainer = prepare_trainer(base, prompt, precision, recipe, *notes, run.training_path, shard if sharded else None)
    with run.locked() if IS_FIRST else nullcontext():
        train(trainer, run.adapter_path, 3600 * parameters["time_budget_hours"])
    return trainer


def shard(trainer, device: str) -> None:
    """Spread the frozen weights of a trainer's model over all processes, block by block (FSDP2).

    Each process keeps its share on `device`, and gathers a block's other shares while the block computes. The LoRA
    weights are small: they stay whole in every process, and their gradients are averaged.
    """
    import torch
    from bitsandbytes.nn import Linear4bit
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.distributed import DistributedConfig

    model = trainer.model
    mesh = init_device_mesh(torch.device(device).type, (trainer.args.world_size,))
    trained = {weight for weight in model.parameters() if weight.requires_grad}
    for weight in trained:
        weight.data = weight.data.to(device)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.quant_state.to(device)
    for block in model.get_decoder().layers:
        fully_shard(block, mesh=mesh, ignored_params=trained)
    # A root is not resharded by default: saving would do it in the first process alone, and the others would wait.
    fully_shard(model, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
    # transformers sets these where it has sharded a model itself: then Accelerate wraps nothing, and the Trainer
    # averages the gradients of the weights that are not sharded.
    model.get_base_model().hf_device_map = {"": device}  # it was loaded elsewhere
    model.config.distributed_config = DistributedConfig(fsdp_size=trainer.args.world_size)
    trainer.is_distributed_loading_by_transformers = True


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        if IS_FIRST:
            print(f"onelap: {error}", file=sys.stderr)
        sys.exit(2)
