"""The parameters of a model by the part that they belong to."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

OWNERS = {
    "vision_model": "vision",
    "qformer": "qformer",
    "query_tokens": "query_tokens",
    "language_projection": "projection",
    "language_model": "language_model",
}


def part_of(name: str) -> str:
    """The part that a parameter of a BLIP-2 kind of model belongs to."""
    return "lora" if "lora_" in name else OWNERS.get(name.split(".")[0], "other")


def by_part(model: nn.Module, alignment: nn.Module | None) -> dict[str, list[nn.Parameter]]:
    """All parameters by part; weights that two layers share are there once."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(part_of(name), []).append(parameter)
    if alignment is not None:
        found["alignment"] = list(alignment.parameters())
    return found


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers."""
    return sum(parameter.numel() for parameter in parameters)
