"""Weights of eight bits for decoding on a CPU, which waits for memory: half of bfloat16's bytes.

A language model's linear layers keep their weights as int8 with a scale a row (symmetric, rounded to the
nearest); activations stay as they are. torchao's layer turns the weights back in every call, and is slower
than bfloat16 on a CPU; this one calls torch's kernel that reads them as they are (docs/serving.md).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Dtype = Literal["auto", "float32", "bfloat16", "int8"]  # of weights in memory; auto: as they were saved
FEW = 8  # rows up to which the kernel is faster than the product with weights turned back
AT_ONCE = 1024  # rows of weights that are turned back together, so that a vocabulary's never stand whole


class Int8Linear(nn.Module):
    """What an ``nn.Linear`` computes, with its weights int8[O, I] and scales[O]."""

    codes: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(1).clamp_min(1e-30) / 127).to(linear.weight.dtype)
        codes = (weight / scales.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        rows = states.reshape(-1, self.in_features)
        if len(rows) <= FEW and rows.device.type == "cpu":
            found = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.codes, self.scales)
        else:
            blocks = [functional.linear(rows, codes.to(rows.dtype)) for codes in self.codes.split(AT_ONCE)]
            found = torch.cat(blocks, -1) * self.scales
        found = found.unflatten(0, states.shape[:-1])
        return found if self.bias is None else found + self.bias


def read_as(dtype: Dtype) -> str:
    """What transformers is to read the weights in; :func:`quantize` makes int8 of bfloat16."""
    return "bfloat16" if dtype == "int8" else dtype


def quantize(language_model: Any) -> None:
    """Put :class:`Int8Linear` in the place of every linear layer, the head among them.

    The embeddings stay, also where the head shared their weights.
    """
    linears = [
        (module, name, child)
        for module in language_model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
    for module, name, child in linears:
        setattr(module, name, Int8Linear(child))
