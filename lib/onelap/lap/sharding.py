"""A frozen base spread over several processes, for one that a single card cannot hold while it trains."""

import torch
from bitsandbytes.nn import Linear4bit
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig


def shard(trainer, device: str) -> None:
    """Spread the frozen weights of a trainer's model over all processes, block by block (FSDP2).

    Each process keeps its share on `device`, and gathers a block's other shares while the block computes. The LoRA
    weights are small: they stay whole in every process, and their gradients are averaged.
    """
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
