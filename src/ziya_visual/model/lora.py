"""What is trained: parts or blocks of them by name, and low-rank adapters on the language model (peft)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ziya_visual.core.errors import CheckpointError, ConfigError
from ziya_visual.core.trainable import parse_rule
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.network import ZiyaVisualModel

Named = dict[str, nn.Parameter]


def linear_names(language_model: nn.Module) -> list[str]:
    """The names of the linear layers inside the decoder's blocks, whatever the architecture calls them.

    GPT-2's ``Conv1D`` is one too. Heads and projections outside the numbered blocks are never among them.
    """
    return sorted({name.rsplit(".", 1)[-1] for name, _ in _linears(language_model)})


def _linears(language_model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in language_model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and block_of(name) is not None:
            yield name, module


def block_of(name: str) -> int | None:
    """The block that a parameter or module stands in: the first number of its dotted name, if any."""
    return next((int(piece) for piece in name.split(".") if piece.isdigit()), None)


def add_lora(model: ZiyaVisualModel, *, rank: int, alpha: float) -> None:
    """Wrap the language model with adapters that start as zero, unless it has them already.

    Raises:
        CheckpointError: the language model has no linear layer in numbered blocks.
    """
    if hasattr(model.language_model, "peft_config"):
        return
    kinds = {type(module) for _, module in _linears(model.language_model)}
    if not kinds:
        name = type(model.language_model).__name__
        raise CheckpointError(f"{name}: no linear layers in numbered blocks, which LoRA could adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=linear_names(model.language_model),
        fan_in_fan_out=kinds == {Conv1D},
    )
    model.language_model = get_peft_model(model.language_model, config)


def merge_lora(model: ZiyaVisualModel) -> None:
    """Add the adapters into the weights for good; nothing happens where there are none.

    They may be ours, or such as stock transformers puts into a checkpoint whose folder holds them.
    """
    if hasattr(model.language_model, "merge_and_unload"):
        model.language_model = model.language_model.merge_and_unload()
    wrapped = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in wrapped:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    if wrapped:  # else transformers would save the adapter alone, and all keys by peft's names
        model._hf_peft_config_loaded = False
        model._weight_conversions = None


def parts_of(model: ZiyaVisualModel, alignment: Alignment) -> dict[str, Named]:
    """The parameters of each part that a stage may train, named ``model.*`` and ``alignment.*``."""
    prefixes = {
        "qformer": "model.qformer.",
        "query_tokens": "model.query_tokens",
        "projection": "model.language_projection.",
        "alignment": "alignment.",
        "lora": "model.language_model.",
        "vision": "model.vision_model.",
    }
    both: dict[str, nn.Module] = {"model": model, "alignment": alignment}
    named = {f"{root}.{name}": p for root, module in both.items() for name, p in module.named_parameters()}
    parts = {
        part: {name: p for name, p in named.items() if name.startswith(prefix)}
        for part, prefix in prefixes.items()
    }
    parts["lora"] = {name: p for name, p in parts["lora"].items() if "lora_" in name}
    return parts


def chosen(parts: dict[str, Named], rule: str) -> Named:
    """The parameters that a rule of ``trains`` names.

    Raises:
        ConfigError: the part has no block in the rule's range.
    """
    part, _ = parse_rule(rule)
    blocks = _blocks(parts, rule)
    return {name: p for name, p in parts[part].items() if blocks is None or block_of(name) in blocks}


def _blocks(parts: dict[str, Named], rule: str) -> range | None:
    """The numbers of the blocks that a rule names, None for the whole part."""
    part, wanted = parse_rule(rule)
    if wanted is None:
        return None
    count = 1 + max((block for name in parts[part] if (block := block_of(name)) is not None), default=-1)
    blocks = range(count)[wanted]
    if not blocks:
        raise ConfigError(f"trains: {rule} is empty, for {part} has {count} blocks; count from 0")
    return blocks


def freeze_all_but(model: ZiyaVisualModel, alignment: Alignment, trains: Iterable[str]) -> dict[str, int]:
    """Let the named parts or blocks learn and nothing else.

    Modules stay in evaluation mode where they are frozen.

    Returns:
        The number of trained parameters by rule.

    Raises:
        ConfigError: a part has no block in a rule's range.
    """
    for network in (model, alignment):
        network.requires_grad_(False)
        network.eval()
    parts = parts_of(model, alignment)
    owners = {"qformer": model.qformer, "alignment": alignment, "vision": model.vision_model}
    table = {}
    for rule in trains:
        learning = chosen(parts, rule)
        for parameter in learning.values():
            parameter.requires_grad_(True)
        table[rule] = sum(parameter.numel() for parameter in learning.values())
        owner, blocks = owners.get(parse_rule(rule)[0]), _blocks(parts, rule)
        if owner is not None:
            _train_mode(owner, blocks)
    assert sum(table.values()) == sum(
        p.numel() for p in [*model.parameters(), *alignment.parameters()] if p.requires_grad
    )
    return table


def _train_mode(owner: nn.Module, blocks: range | None) -> None:
    if blocks is None:
        owner.train()
        return
    for name, module in owner.named_modules():
        if name.rsplit(".", 1)[-1].isdigit() and block_of(name) in blocks:
            module.train()
