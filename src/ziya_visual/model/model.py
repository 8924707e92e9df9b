"""The network: stock BLIP-2 with a causal language model, plus the forward passes that stock lacks.

``ZiyaVisualModel`` adds no parameter to ``Blip2ForConditionalGeneration``. What stage 1 and retrieval need
besides (text embeddings, text feed-forwards, heads, temperature) is an
:class:`~ziya_visual.model.alignment.Alignment` in the attribute ``alignment``, saved in a file of its own.

Legend: B images, P patches + 1, Dv ViT width, Q queries, Dq Q-Former width, D language model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForConditionalGeneration

from ziya_visual.data.packing import PackedBatch
from ziya_visual.model.packed import LossSum, packed_loss


class ZiyaVisualModel(Blip2ForConditionalGeneration):  # type: ignore[misc]
    """Stock ``Blip2ForConditionalGeneration`` with its stages as methods of their own."""

    def __init__(self, config: Blip2Config) -> None:
        """Build the stock network; query tokens start apart, where stock has them all zero."""
        super().__init__(config)
        nn.init.normal_(self.query_tokens, std=0.02)

    @property
    def image_id(self) -> int:
        """The id of the ``<image>`` placeholder."""
        return int(self.config.image_token_index)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """float32[B, 3, H, W] -> float[B, P, Dv]; without gradients where the ViT is frozen."""
        frozen = not any(parameter.requires_grad for parameter in self.vision_model.parameters())
        with torch.no_grad() if frozen else torch.enable_grad():
            return self.vision_model(pixel_values=pixel_values).last_hidden_state

    def query_images(self, image_embeds: Tensor) -> Tensor:
        """float[B, P, Dv] -> float[B, Q, Dq]: what the queries read out of the image."""
        queries = self.query_tokens.expand(image_embeds.shape[0], -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state

    def image_prefix(self, queries: Tensor) -> Tensor:
        """float[B, Q, Dq] -> float[B, Q, D]: the image's tokens for the language model."""
        return self.language_projection(queries)

    def packed_loss(self, queries: Tensor | None, batch: PackedBatch) -> dict[int, LossSum]:
        """Summed language-model losses by language of rows in the images' order, each image encoded once."""
        prefix = None if queries is None else self.image_prefix(queries)
        return packed_loss(self.language_model, batch, image_id=self.image_id, image_prefix=prefix)
