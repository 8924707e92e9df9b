"""Where the Q-Former looks: its attention to the picture's patches, as a map and over the picture.

Legend: Q queries, A heads, P patches (after the class token), E head width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ziya_visual.core.records import Message
from ziya_visual.infer.engine import ZiyaVisual

STRONGEST = 0.65  # of the colour at the place looked at most


@torch.inference_mode()
def where_it_looks(model: ZiyaVisual, picture: Image.Image, question: str = "") -> NDArray[np.float32]:
    """Attention to each patch, float32[side, side], the largest 1: the mean of queries, heads and layers.

    An instruction-aware Q-Former reads the ``question``; another looks the same way whatever is asked.
    """
    found: list[Tensor] = []

    def keep(attention: Any, inputs: tuple[Tensor, ...], given: dict[str, Tensor]) -> None:
        states = inputs[0] if inputs else given["hidden_states"]
        seen = given.get("encoder_hidden_states")
        seen = inputs[2] if seen is None else seen
        query, key = (
            layer(x).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for layer, x in ((attention.query, states), (attention.key, seen))
        )
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).float().softmax(-1)
        found.append(weights.mean((0, 1, 2)))

    crossing = [
        layer.crossattention.attention
        for layer in model.model.qformer.encoder.layer
        if hasattr(layer, "crossattention")
    ]
    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in crossing]
    try:
        model.look(picture, [Message("user", question)])
    finally:
        for hook in hooks:
            hook.remove()
    patches = torch.stack(found).mean(0)[1:]  # without the class token
    side = round(len(patches) ** 0.5)
    seen = (patches / patches.max().clamp(min=1e-9)).reshape(side, side)
    return seen.numpy()


def over_picture(picture: Image.Image, seen: NDArray[np.float32]) -> Image.Image:
    """The picture with a red veil where it is looked at; the model sees it as a square."""
    veil = Image.fromarray((seen * 255 * STRONGEST).astype(np.uint8)).resize(
        picture.size, Image.Resampling.BICUBIC
    )
    return Image.composite(Image.new("RGB", picture.size, (230, 30, 30)), picture.convert("RGB"), veil)
