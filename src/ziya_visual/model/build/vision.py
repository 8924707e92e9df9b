"""Pictures of another size: the ViT's position embeddings interpolated, for good."""

from __future__ import annotations

import torch
from torch import nn

from ziya_visual.core.errors import ConfigError
from ziya_visual.model.network import VisualModel


def set_image_size(model: VisualModel, side: int) -> None:
    """Let the ViT take pictures of ``side`` x ``side`` pixels.

    The embeddings are those that stock computes at every call with ``interpolate_pos_encoding``.

    Raises:
        ConfigError: ``side`` is no multiple of the patches'.
    """
    settings = model.config.vision_config
    if side == settings.image_size:
        return
    if side % settings.patch_size:
        raise ConfigError(
            f"model.image_size: {side} is no multiple of the ViT's patches, {settings.patch_size} pixels"
        )
    embeddings = model.vision_model.embeddings
    patches = (side // settings.patch_size) ** 2
    like = embeddings.position_embedding.new_empty(1, 1 + patches, settings.hidden_size)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(like, side, side)
    embeddings.position_embedding = nn.Parameter(positions.contiguous())
    embeddings.image_size = settings.image_size = side
    embeddings.num_patches, embeddings.num_positions = patches, patches + 1
