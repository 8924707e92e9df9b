"""How the language model's blocks are run: compiled, computed twice to save memory, spread over processes.

What is frozen and large is the blocks of the language model. Under FSDP2 each process keeps a part of every
block and gathers a block while it computes it, at the same time as all others. All that learns is small
beside them and is whole on every process, where :mod:`processes` adds its gradients up; so is the ViT, which
each process runs on pictures of its own when they come.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import fully_shard

from ziya_visual.core import distributed
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.recipe import Recipe
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.packed.forward import causal_lm


def blocks(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a network: the longest list of modules that it holds."""
    lists = [list(module) for module in network.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def prepare_blocks(model: ZiyaVisualModel, *, recompute: bool, compiled: bool) -> None:
    """Set how the language model's blocks run; done anew whenever modules were put into evaluation mode.

    Raises:
        ConfigError: this language model cannot be recomputed.
    """
    inner = causal_lm(model.language_model)
    if recompute:
        if not inner.supports_gradient_checkpointing:
            raise ConfigError(f"recompute: {type(inner).__name__} does not support it; leave it out")
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    for block in blocks(inner):
        if recompute:
            block.training = True  # what stock asks before it recomputes; what is inside stays frozen
        if compiled and block._compiled_call_impl is None:
            block.compile(dynamic=True)


def shard_blocks(model: ZiyaVisualModel, recipe: Recipe) -> None:
    """Spread the language model's blocks over the processes.

    Raises:
        ConfigError: there is one process, or pictures cannot be shared out evenly: then one would wait for
            ever for blocks that the others are done with.
    """
    count = distributed.world_size()
    if count == 1:
        raise ConfigError("shard: there is one process; start several with torchrun, or leave it out")
    for stage in recipe.stages:
        for name, number in (
            ("images_per_step", stage.images_per_step),
            ("texts_per_step", stage.texts_per_step),
        ):
            if number % count:
                raise ConfigError(
                    f"stage {stage.name}: {name} is {number}, which {count} processes cannot share evenly"
                )
    for block in blocks(model.language_model):
        fully_shard(block, reshard_after_forward=True)
