"""What is trained: parts frozen or not by name, and low-rank adapters on the language model (peft)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel


def linear_names(language_model: nn.Module) -> list[str]:
    """The names of the linear layers inside the decoder's blocks, whatever the architecture calls them."""
    names = set()
    for name, module in language_model.named_modules():
        if isinstance(module, nn.Linear) and any(piece.isdigit() for piece in name.split(".")):
            names.add(name.rsplit(".", 1)[-1])
    return sorted(names)


def add_lora(model: ZiyaVisualModel, *, rank: int, alpha: float) -> None:
    """Wrap the language model with adapters that start as zero, unless it has them already."""
    if not hasattr(model.language_model, "peft_config"):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear_names(model.language_model))
        model.language_model = get_peft_model(model.language_model, config)


def merge_lora(model: ZiyaVisualModel) -> None:
    """Add the adapters into the language model's weights for good; nothing happens where there are none."""
    if hasattr(model.language_model, "merge_and_unload"):
        model.language_model = model.language_model.merge_and_unload()


def parts_of(model: ZiyaVisualModel, alignment: Alignment) -> dict[str, list[nn.Parameter]]:
    """The parameters of each part that a stage may train."""
    lora = [p for name, p in model.language_model.named_parameters() if "lora_" in name]
    return {
        "qformer": list(model.qformer.parameters()),
        "query_tokens": [model.query_tokens],
        "projection": list(model.language_projection.parameters()),
        "alignment": list(alignment.parameters()),
        "lora": lora,
        "vision": list(model.vision_model.parameters()),
    }


def freeze_all_but(model: ZiyaVisualModel, alignment: Alignment, trains: Iterable[str]) -> dict[str, int]:
    """Let the named parts learn and nothing else.

    Modules stay in evaluation mode where they are frozen.

    Returns:
        The number of trained parameters by part.
    """
    model.requires_grad_(False)
    alignment.requires_grad_(False)
    model.eval()
    parts = parts_of(model, alignment)
    table = {}
    for name in trains:
        for parameter in parts[name]:
            parameter.requires_grad_(True)
        table[name] = sum(parameter.numel() for parameter in parts[name])
    owners: dict[str, Any] = {"qformer": model.qformer, "alignment": alignment, "vision": model.vision_model}
    for name, module in owners.items():
        module.train(name in table)
    assert sum(table.values()) == sum(
        p.numel() for p in [*model.parameters(), *alignment.parameters()] if p.requires_grad
    )
    return table
