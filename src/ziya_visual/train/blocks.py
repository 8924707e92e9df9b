"""How the language model's blocks are run: compiled, computed twice to save memory, spread over processes.

What is frozen and large is the blocks of the language model and of the ViT. Under FSDP2 each process keeps a
part of every such block and gathers a block while it computes it. All that learns is small beside them and is
whole on every process, where :mod:`processes` adds its gradients up.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard

from ziya_visual.core.config import Recipe
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.parts import split_rule
from ziya_visual.model.model import ZiyaVisualModel
from ziya_visual.train import processes


def blocks(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a network: the longest list of modules that it holds."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=nn.ModuleList()))


def prepare_blocks(model: ZiyaVisualModel, *, recompute: bool, compiled: bool) -> None:
    """Set how the language model's blocks run; done anew whenever modules were put into evaluation mode.

    Raises:
        ConfigError: this language model cannot be recomputed.
    """
    inner: Any = model.language_model
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if recompute:
        if not inner.supports_gradient_checkpointing:
            raise ConfigError(f"recompute: {type(inner).__name__} does not support it; leave it out")
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    for block in blocks(inner):
        if recompute:
            block.training = True  # what stock asks before it recomputes; what is inside stays frozen
        if compiled and block._compiled_call_impl is None:
            block.compile(dynamic=True)


def shard_frozen(model: ZiyaVisualModel, recipe: Recipe) -> None:
    """Spread the blocks that no stage trains over the processes.

    Raises:
        ConfigError: there is one process, or pictures cannot be shared out evenly: then one would wait for
            ever for blocks that the others are done with.
    """
    count = processes.count()
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
    parts = {split_rule(rule)[0] for stage in recipe.stages for rule in stage.trains}
    frozen = [] if "vision" in parts else blocks(model.vision_model)
    for block in [*frozen, *blocks(model.language_model)]:
        fully_shard(block, reshard_after_forward=True)
