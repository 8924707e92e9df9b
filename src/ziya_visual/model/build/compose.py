"""New networks from parts: an image encoder, a causal language model and a fresh Q-Former between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionModel, PreTrainedModel

from ziya_visual.core.errors import CheckpointError, ConfigError
from ziya_visual.data.chat.chat_format import IMAGE
from ziya_visual.model.network import Alignment, VisualModel, ZiyaVisualModel


def compose(
    *,
    vision: Blip2VisionModel,
    language_model: PreTrainedModel,
    tokenizer: Any,
    qformer: dict[str, Any],
    num_query_tokens: int,
    projection_size: int,
    seed: int,
) -> tuple[ZiyaVisualModel, Alignment]:
    """Join the parts; Q-Former, queries, projection and alignment are initialized from ``seed``.

    The weights of ``vision`` and ``language_model`` are copied. The language model's ``tokenizer`` must have
    ``<image>``; the Q-Former's text side uses it too. ``qformer`` are keywords of ``Blip2QFormerConfig`` but
    vocabulary and encoder width; ``projection_size`` is the width of the contrastive space.
    """
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    rows = language_model.get_input_embeddings().weight.shape[0]
    if image_id is None or image_id == tokenizer.unk_token_id:
        raise CheckpointError(f"the tokenizer has no {IMAGE} token; add it before composing")
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens but the LM has {rows} embeddings; resize them first"
        )
    qformer_config = Blip2QFormerConfig(
        **qformer, vocab_size=len(tokenizer), encoder_hidden_size=vision.config.hidden_size, pad_token_id=None
    )
    config = Blip2Config(
        vision_config=vision.config.to_dict(),
        qformer_config=qformer_config.to_dict(),
        text_config=language_model.config.to_dict(),
        num_query_tokens=num_query_tokens,
        image_text_hidden_size=projection_size,
        image_token_index=image_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZiyaVisualModel._from_config(config)
        alignment = Alignment(config.qformer_config, projection_size=projection_size)
    model.vision_model.load_state_dict(vision.state_dict())
    model.language_model.load_state_dict(language_model.state_dict())
    return model, alignment


def new_alignment(config: Blip2QFormerConfig, *, projection_size: int, seed: int) -> Alignment:
    """Initialize an alignment with ``config.vocab_size`` tokens from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Alignment(config, projection_size=projection_size)


def set_image_size(model: VisualModel, side: int) -> None:
    """Make the ViT take images of ``side`` x ``side`` pixels.

    The new position embeddings are those that stock computes in every call with ``interpolate_pos_encoding``.
    """
    settings = model.config.vision_config
    if side == settings.image_size:
        return
    if side % settings.patch_size:
        raise ConfigError(
            f"model.image_size: {side} is not a multiple of the ViT's patch size, "
            f"{settings.patch_size} pixels"
        )
    embeddings = model.vision_model.embeddings
    patches = (side // settings.patch_size) ** 2
    like = embeddings.position_embedding.new_empty(1, 1 + patches, settings.hidden_size)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(like, side, side)
    embeddings.position_embedding = nn.Parameter(positions.contiguous())
    embeddings.image_size = settings.image_size = side
    embeddings.num_patches, embeddings.num_positions = patches, patches + 1
