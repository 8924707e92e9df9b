"""The optimizer and learning-rate schedule that every training of ours uses."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float = 0.05
) -> torch.optim.AdamW:
    """AdamW (betas 0.9, 0.98) with no decay on vectors: biases, norms, scales."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for _, parameter in named:
        if parameter.requires_grad:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def cosine(step: int, *, steps: int, warmup: int, floor: float = 0.02) -> float:
    """The factor on the learning rate at ``step`` of ``steps``: linear warm-up, then cosine to ``floor``.

    >>> [round(cosine(s, steps=10, warmup=2), 2) for s in (0, 1, 9)]
    [0.5, 1.0, 0.06]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
