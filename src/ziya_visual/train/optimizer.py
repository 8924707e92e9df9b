"""The optimizer and the learning-rate schedule of every training of ours.

Matrices inside the networks are trained by Muon or AdamW, everything else (embeddings, heads, biases, norms,
scales) by AdamW. On the miniature's language model Muon reached in 250 steps the losses for which AdamW took
900 (docs/log.md). Its update of a matrix costs more the larger that is, whatever the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

OUTSIDE = (
    "embed",
    "query_tokens",
    "itm_head",
    "head",
    "count",
)  # 2D or more, but no matrix of a network's inside


class Optimizer:
    """Two optimizers as one; learning rates are matched by Muon's ``match_rms_adamw``."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        weight_decay: float = 0.01,
        scales: Mapping[nn.Parameter, float] | None = None,
        matrices: Literal["muon", "adamw"] = "muon",
    ) -> None:
        """Take the parameters that require gradients.

        Args:
            named: parameters and their names, which tell what a matrix inside a network is.
            weight_decay: of these matrices; of all else there is none.
            scales: factors on the learning rate of some.
            matrices: by what they are trained.
        """
        inside: dict[float, list[nn.Parameter]] = {}
        outside: dict[float, list[nn.Parameter]] = {}
        for name, parameter in named:
            if parameter.requires_grad:
                matrix = parameter.ndim == 2 and not any(word in name for word in OUTSIDE)
                groups = inside if matrix else outside
                groups.setdefault((scales or {}).get(parameter, 1.0), []).append(parameter)
        both = [groups for groups in (inside, outside) if groups]
        self.parameters = [p for groups in both for group in groups.values() for p in group]
        self._scales = [list(groups) for groups in both]
        self._parts: list[torch.optim.Optimizer] = []
        if inside:
            new = _muon if matrices == "muon" else _adamw
            self._parts.append(new(inside, weight_decay))
        if outside:
            self._parts.append(_adamw(outside, 0.0))

    def step(self, loss: Tensor, *, lr: float) -> bool:
        """Forget the gradients, backward, and :meth:`finish`."""
        self.zero_grad()
        loss.backward()
        return self.finish(lr=lr)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad()

    def finish(self, *, lr: float, max_norm: float = 1.0) -> bool:
        """Clip the gradients and :meth:`update`; False, and nothing changed, if they are not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
        if not math.isfinite(norm.item()):
            return False
        self.update(lr=lr)
        return True

    def update(self, *, lr: float) -> None:
        """Change the parameters by the gradients that they hold, each at its share of ``lr``."""
        for part, scales in zip(self._parts, self._scales, strict=True):
            for group, scale in zip(part.param_groups, scales, strict=True):
                group["lr"] = lr * scale
            part.step()

    def state_dict(self) -> list[Any]:
        """The states of both."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def _muon(groups: Mapping[float, list[nn.Parameter]], weight_decay: float) -> torch.optim.Optimizer:
    parameters = [{"params": group} for group in groups.values()]
    return torch.optim.Muon(parameters, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


def _adamw(groups: Mapping[float, list[nn.Parameter]], weight_decay: float) -> torch.optim.Optimizer:
    parameters = [{"params": group} for group in groups.values()]
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)


def cosine(step: int, *, steps: int, warmup: int, floor: float = 0.02) -> float:
    """The factor on the learning rate at ``step`` of ``steps``: linear warm-up, then cosine to ``floor``.

    >>> [round(cosine(s, steps=10, warmup=2), 2) for s in (0, 1, 9)]
    [0.5, 1.0, 0.06]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
