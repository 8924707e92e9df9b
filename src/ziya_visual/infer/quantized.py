"""Int8 weights for decoding on a CPU, where memory bandwidth is the limit: half of bfloat16's bytes.

The language model's linear layers keep their weights as int8 with one scale per row (symmetric, rounded to
nearest); activations keep their dtype. torchao's layer dequantizes in every call and is slower than bfloat16
on a CPU; this one uses torch's int8 kernel (docs/serving.md).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Dtype = Literal["auto", "float32", "bfloat16", "int8"]  # of weights in memory; auto: as saved
KERNEL_ROWS = 8  # up to this many input rows, the kernel is faster than dequantizing
BLOCK_ROWS = 1024  # weight rows to dequantize at once, so the LM head is never fully materialized


class Int8Linear(nn.Module):
    """An ``nn.Linear`` with weights int8[O, I] and scales[O]."""

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
        """Map [..., I] to [..., O]."""
        rows = states.reshape(-1, self.in_features)
        if len(rows) <= KERNEL_ROWS and rows.device.type == "cpu":
            output = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.codes, self.scales)
        else:
            blocks = [functional.linear(rows, codes.to(rows.dtype)) for codes in self.codes.split(BLOCK_ROWS)]
            output = torch.cat(blocks, -1) * self.scales
        output = output.unflatten(0, states.shape[:-1])
        return output if self.bias is None else output + self.bias


def load_dtype(dtype: Dtype) -> str:
    """Return the dtype for transformers to load; :func:`quantize` turns bfloat16 into int8."""
    return "bfloat16" if dtype == "int8" else dtype


def quantize(language_model: Any) -> None:
    """Replace every linear layer, including the head, with :class:`Int8Linear`.

    The embeddings keep their dtype, even if the head shared their weights.
    """
    linears = [
        (module, name, child)
        for module in language_model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
    for module, name, child in linears:
        setattr(module, name, Int8Linear(child))
