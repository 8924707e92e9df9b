"""Map the Q-Former's attention to the patches of an image, and draw it over the image.

Legend: P patches, after the class token.
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

MAX_OPACITY = 0.65  # of the overlay, where attention is largest


@torch.inference_mode()
def attention_map(model: ZiyaVisual, image: Image.Image, question: str = "") -> NDArray[np.float32]:
    """Return the attention to each patch, float32[side, side], scaled to a maximum of 1.

    The map is the mean over queries, heads and layers. Only an instruction-aware Q-Former reads the
    ``question``; for others, the map does not depend on it.
    """
    attentions: list[Tensor] = []

    def record(attention: Any, inputs: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        states = inputs[0] if inputs else kwargs["hidden_states"]
        patches = kwargs.get("encoder_hidden_states")
        patches = inputs[2] if patches is None else patches
        query, key = (
            layer(x).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for layer, x in ((attention.query, states), (attention.key, patches))
        )
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).float().softmax(-1)
        attentions.append(weights.mean((0, 1, 2)))

    cross_attentions = [
        layer.crossattention.attention
        for layer in model.model.qformer.encoder.layer
        if hasattr(layer, "crossattention")
    ]
    hooks = [module.register_forward_pre_hook(record, with_kwargs=True) for module in cross_attentions]
    try:
        model.query_image(image, [Message("user", question)])
    finally:
        for hook in hooks:
            hook.remove()
    patches = torch.stack(attentions).mean(0)[1:]  # without the class token
    side = round(len(patches) ** 0.5)
    return (patches / patches.max().clamp(min=1e-9)).reshape(side, side).numpy()


def overlay(image: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """Draw an attention map over an image in red; the model sees the image as a square."""
    opacity = Image.fromarray((attention * 255 * MAX_OPACITY).astype(np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    return Image.composite(Image.new("RGB", image.size, (230, 30, 30)), image.convert("RGB"), opacity)
