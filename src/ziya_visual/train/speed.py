"""How fast a run is: tokens and pictures a second, and the share of the GPU's peak that it makes use of.

FLOPs are counted by hand: of a parameter and a token 2 in the forward pass, 2 more where gradients cross it,
2 more where it learns; attention scores, what is computed twice, and the passes of contrast, matching and
grounded generation are not counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from ziya_visual.core import distributed
from ziya_visual.data.packing import IGNORE
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.train.batches import Batch

# Dense bfloat16 FLOP/s that the makers' data sheets give.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of a picture in the ViT and in the Q-Former, of a token, and of a token that is learnt."""

    vision: float
    qformer: float
    token: float
    learnt: float

    @staticmethod
    def of(model: ZiyaVisualModel, *, encodes: bool = True, queries: bool = True) -> Cost:
        """As the model is frozen now; without ``encodes`` no ViT runs, without ``queries`` no Q-Former."""
        settings = model.config.vision_config
        patches = (settings.image_size // settings.patch_size) ** 2 + 1
        language_model = model.language_model
        head = language_model.get_output_embeddings()
        words = {id(p) for m in (head, language_model.get_input_embeddings()) for p in m.parameters()}
        body = [p for p in language_model.parameters() if id(p) not in words]
        return Cost(
            vision=encodes * patches * _each(list(model.vision_model.parameters()), crossed=False),
            qformer=queries
            * model.query_tokens.shape[1]
            * _each(list(model.qformer.parameters()), crossed=False),
            token=_each(body, crossed=True),
            learnt=_each(list(head.parameters()), crossed=True),
        )

    def step(self, batch: Batch) -> float:
        """FLOPs of a step."""
        assert batch.texts is not None
        images = len(batch.pictures) * (self.qformer + self.vision)
        learnt = int((batch.texts.labels != IGNORE).sum())
        return images + len(batch.texts.input_ids) * self.token + learnt * self.learnt


def _each(parameters: list[nn.Parameter], *, crossed: bool) -> float:
    """FLOPs a token; ``crossed`` by gradients even where it does not learn."""
    learning = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - learning
    return 6 * learning + (4 if crossed else 2) * frozen


class Speed:
    """Counts the steps since it was last asked, and the seconds that they took."""

    def __init__(self, device: torch.device, cost: Cost) -> None:
        self._device, self._cost = device, cost
        self._forget()
        self.go_on()

    def _forget(self) -> None:
        self._seconds, self._tokens, self._pictures, self._flops = 0.0, 0, 0, 0.0

    def go_on(self) -> None:
        """What was done since the last step was none of a step's work."""
        self._since = time.perf_counter()

    def count(self, batch: Batch) -> None:
        """Add a step that ends now."""
        assert batch.texts is not None
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._tokens += len(batch.texts.input_ids)
        self._pictures += len(batch.pictures)
        self._flops += self._cost.step(batch)

    def measured(self) -> dict[str, float]:
        """Per second on all processes since the last call; ``mfu`` in percent on a GPU that is known.

        Nothing where no step was taken since.
        """
        if not self._seconds:
            return {}
        many = distributed.world_size()
        found = {
            "tokens_per_second": many * self._tokens / self._seconds,
            "images_per_second": many * self._pictures / self._seconds,
        }
        peak = peak_of(self._device)
        if peak is not None:
            found["mfu"] = 100 * self._flops / self._seconds / peak
        self._forget()
        return found


def peak_of(device: torch.device) -> float | None:
    """FLOP/s of a GPU in bfloat16, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name), None)
