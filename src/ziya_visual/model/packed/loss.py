"""Cross-entropies of tokens through a vocabulary of any size, a few logits at a time.

A token's loss depends on its own state alone. Behind a frozen head the gradient of each is therefore computed
together with it, while its logits are there, and they are gone a moment later: a large vocabulary is passed
over once instead of five times. A head that learns takes the usual way, in pieces that are computed again.

Legend: S tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from ziya_visual.data.packing import IGNORE

LOGITS = 1 << 27  # at once where the head learns: 0.5 GB in float32, and as much for their gradients
FROZEN_LOGITS = 1 << 22  # where it does not: they stay in a processor's cache


def token_losses(head: Any, states: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies float32[S] of float[S, D] for targets int64[S]; 0 where the target is ``IGNORE``.

    ``head`` is the layer of the vocabulary, or what peft made of it.
    """
    if type(head) is nn.Linear and not isinstance(head.weight, DTensor) and _frozen(head):
        losses: Tensor = _FrozenHead.apply(states, head.weight, head.bias, targets, compute_dtype(states))
        return losses
    pieces = -(-len(states) * head.weight.shape[0] // LOGITS)
    if pieces <= 1:
        return _losses(head, states, targets)
    some = zip(states.chunk(pieces), targets.chunk(pieces), strict=True)
    return torch.cat([checkpoint(_losses, head, s, t, use_reentrant=False) for s, t in some])


def compute_dtype(states: Tensor) -> torch.dtype:
    """What matrix products of these states are computed in: autocast's dtype where it is on."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _frozen(head: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in head.parameters())


def _losses(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(states).float(), targets, reduction="none", ignore_index=IGNORE)


class _FrozenHead(torch.autograd.Function):
    """Losses whose gradients by the states are made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            weight = weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            size = max(1, FROZEN_LOGITS // len(weight))
            found = [
                _losses_and_gradients(s, weight, bias, t, wanted=ctx.needs_input_grad[0])
                for s, t in zip(states.to(dtype).split(size), targets.split(size), strict=True)
            ]
        losses, gradients = zip(*found, strict=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
            ctx.dtype = states.dtype
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad[:, None]).to(ctx.dtype), None, None, None, None


def _losses_and_gradients(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Of a few tokens: float32[S], and float[S, D] where it is wanted."""
    logits = F.linear(states, weight, bias).float()
    learnt = targets != IGNORE
    places = targets.clamp(min=0)[:, None]
    whole = logits.logsumexp(1)
    losses = (whole - logits.gather(1, places)[:, 0]) * learnt
    if not wanted:
        return losses, None
    error = logits.sub_(whole[:, None]).exp_()  # the softmax, less 1 at the target
    error.scatter_add_(1, places, -torch.ones_like(places, dtype=error.dtype))
    error.mul_(learnt[:, None])
    return losses, error.to(weight.dtype) @ weight
