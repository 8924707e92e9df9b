"""The speed of training steps in tokens, images and FLOPs per second.

FLOPs are counted by hand: for a parameter and a token 2 in the forward pass, 2 more where gradients pass
through it, 2 more where it learns. Attention scores, recomputation and the passes of the contrastive,
matching and grounded losses are not counted. The GPU benchmark imports this module on machines that have
torch, transformers, peft and accelerate alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ziya_visual.core import distributed
from ziya_visual.data.packing import IGNORE
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.train.objectives import Batch

# Dense bfloat16 FLOP/s of the makers' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


@dataclass(frozen=True, slots=True)
class StepCost:
    """FLOPs of an image in the ViT and in the Q-Former, of a token, and of a supervised token in the head."""

    vision: float
    qformer: float
    token: float
    supervised: float

    @staticmethod
    def of(model: ZiyaVisualModel, *, encodes: bool = True, queries: bool = True) -> StepCost:
        """Count for the model as it is frozen now; say whether a step runs the ViT and the Q-Former."""
        config = model.config.vision_config
        patches = (config.image_size // config.patch_size) ** 2 + 1
        language_model = model.language_model
        head = language_model.get_output_embeddings()
        words = {id(p) for m in (head, language_model.get_input_embeddings()) for p in m.parameters()}
        body = [p for p in language_model.parameters() if id(p) not in words]
        vision = _flops(model.vision_model.parameters(), crossed=False)
        qformer = _flops(model.qformer.parameters(), crossed=False)
        return StepCost(
            vision=encodes * patches * vision,
            qformer=queries * model.query_tokens.shape[1] * qformer,
            token=_flops(body, crossed=True),
            supervised=_flops(head.parameters(), crossed=True),
        )

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a step."""
        assert batch.texts is not None
        images = len(batch.images) * (self.qformer + self.vision)
        supervised = int((batch.texts.labels != IGNORE).sum())
        return images + len(batch.texts.input_ids) * self.token + supervised * self.supervised


def _flops(parameters: Iterable[nn.Parameter], *, crossed: bool) -> float:
    """Return the FLOPs per token; ``crossed``: gradients pass through even what does not learn."""
    frozen_cost = 4 if crossed else 2
    return sum((6 if p.requires_grad else frozen_cost) * p.numel() for p in parameters)


class Speed:
    """Counts the steps since the last measurement, and the seconds that they took."""

    def __init__(self, device: torch.device, cost: StepCost) -> None:
        self._device, self._cost = device, cost
        self._seconds, self._tokens, self._images, self._flops = 0.0, 0, 0, 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave out the time since the last step: it was spent on something else."""
        self._since = time.perf_counter()

    def count(self, batch: Batch) -> None:
        """Add a step that ends now."""
        assert batch.texts is not None
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._tokens += len(batch.texts.input_ids)
        self._images += len(batch.images)
        self._flops += self._cost.flops(batch)

    def measure(self) -> dict[str, float]:
        """Return rates per second of all ranks since the last call; empty if there was no step.

        ``mfu``, in percent of the peak, is there only for GPUs whose peak is known.
        """
        if not self._seconds:
            return {}
        counts = {"tokens_per_second": self._tokens, "images_per_second": self._images}
        rates = {name: distributed.world_size() * count / self._seconds for name, count in counts.items()}
        peak = peak_flops(self._device)
        if peak is not None:
            rates["mfu"] = 100 * self._flops / self._seconds / peak
        self._seconds, self._tokens, self._images, self._flops = 0.0, 0, 0, 0.0
        return rates


def peak_flops(device: torch.device) -> float | None:
    """Return the peak FLOP/s of a GPU in bfloat16, or None if it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)
