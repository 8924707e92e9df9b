"""The optimizer and the learning-rate schedule of every training in this project.

Muon or AdamW trains the matrices inside the networks, AdamW everything else (embeddings, heads, biases,
norms, scales). On the miniature's language model Muon reached in 250 steps the losses for which AdamW took
900 (docs/log.md). The cost of its update grows with the matrices, whatever the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

MAX_NORM = 1.0  # of all gradients together; longer ones are clipped
# Parameters with these words in their names have two dimensions or more but are no matrix inside a network.
OUTSIDE = ("embed", "query_tokens", "itm_head", "head", "count")


class Optimizer:
    """Two optimizers as one; Muon's ``match_rms_adamw`` makes their learning rates comparable."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        weight_decay: float = 0.01,
        scales: Mapping[nn.Parameter, float] | None = None,
        matrices: Literal["muon", "adamw"] = "muon",
    ) -> None:
        """Create the optimizers for the parameters that require gradients.

        Names tell which parameters are matrices inside a network. Only these have weight decay. ``scales``
        are factors on the learning rate of single parameters.
        """
        inside: dict[float, list[nn.Parameter]] = {}
        outside: dict[float, list[nn.Parameter]] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                is_matrix = parameter.ndim == 2 and not any(word in name for word in OUTSIDE)
                groups = inside if is_matrix else outside
                groups.setdefault((scales or {}).get(parameter, 1.0), []).append(parameter)
        self.parameters = [p for groups in (inside, outside) for group in groups.values() for p in group]
        self._scales = [list(groups) for groups in (inside, outside) if groups]
        kinds = (matrices, inside, weight_decay), ("adamw", outside, 0.0)
        self._optimizers = [_create(*kind) for kind in kinds if kind[1]]

    def step(self, loss: Tensor, *, lr: float) -> bool:
        """Run a whole step: clear the gradients, run backward and :meth:`clip_and_update`."""
        self.zero_grad()
        loss.backward()
        return self.clip_and_update(lr=lr)

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def clip_and_update(self, *, lr: float) -> bool:
        """Clip the gradients and :meth:`update`; return False and change nothing if they are not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        if not math.isfinite(norm.item()):
            return False
        self.update(lr=lr)
        return True

    def update(self, *, lr: float) -> None:
        """Update the parameters with their gradients, each with its factor on ``lr``."""
        for optimizer, scales in zip(self._optimizers, self._scales, strict=True):
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = lr * scale
            optimizer.step()

    def state_dict(self) -> list[Any]:
        """Return the state of each optimizer."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _create(
    kind: str, groups: Mapping[float, list[nn.Parameter]], weight_decay: float
) -> torch.optim.Optimizer:
    parameters = [{"params": group} for group in groups.values()]
    if kind == "muon":
        return torch.optim.Muon(parameters, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)


def cosine(step: int, *, steps: int, warmup: int, floor: float = 0.02) -> float:
    """Return the factor on the learning rate at a step: linear warm-up, then a cosine down to ``floor``.

    >>> [round(cosine(s, steps=10, warmup=2), 2) for s in (0, 1, 9)]
    [0.5, 1.0, 0.06]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
