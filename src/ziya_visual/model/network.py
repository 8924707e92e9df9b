"""The network: stock BLIP-2 or InstructBLIP with a causal language model, and its steps as methods.

``ZiyaVisualModel`` and ``ZiyaInstructModel`` add no parameter to their stock classes. What stage 1 and
retrieval need besides (text embeddings, text feed-forwards, heads, temperature) is an
:class:`~ziya_visual.model.alignment.Alignment`, saved in a file of its own.

Legend: B images, P patches + 1, Dv ViT width, Q queries, Dq Q-Former width, D language model width, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from ziya_visual.data.packing import PackedBatch
from ziya_visual.model.packed.forward import LossSum, packed_loss

Instructions = tuple[Tensor, Tensor]  # the Q-Former's token ids and their mask, int64[B, T] each


class ForwardSteps:
    """The steps of a stock network's forward pass that both classes share."""

    config: Any
    vision_model: Any
    language_projection: Any
    language_model: Any

    @property
    def image_id(self) -> int:
        """Return the id of the ``<image>`` placeholder."""
        return int(self.config.image_token_index)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images: float32[B, 3, H, W] -> float[B, P, Dv]; without gradients if the ViT is frozen."""
        frozen = not any(parameter.requires_grad for parameter in self.vision_model.parameters())
        with torch.no_grad() if frozen else torch.enable_grad():
            return self.vision_model(pixel_values=pixel_values).last_hidden_state

    def image_prefix(self, queries: Tensor) -> Tensor:
        """Project queries to the language model's image tokens: float[B, Q, Dq] -> float[B, Q, D].

        A checkpoint in float16 keeps its Q-Former in float32, hence the cast.
        """
        return self.language_projection(queries.to(self.language_projection.weight.dtype))

    def packed_loss(self, queries: Tensor | None, batch: PackedBatch) -> dict[int, LossSum]:
        """Return summed language-model losses by language; rows are in the order of their images."""
        prefix = None if queries is None else self.image_prefix(queries)
        return packed_loss(self.language_model, batch, image_id=self.image_id, image_prefix=prefix)


class ZiyaVisualModel(ForwardSteps, Blip2ForConditionalGeneration):  # type: ignore[misc]
    """Stock ``Blip2ForConditionalGeneration`` with its steps as methods."""

    stock_name = "Blip2ForConditionalGeneration"

    def __init__(self, config: Blip2Config) -> None:
        """Build the stock network with random query tokens, which stock initializes to zero."""
        super().__init__(config)
        nn.init.normal_(self.query_tokens, std=0.02)

    def query_images(self, image_embeds: Tensor, instructions: Instructions | None = None) -> Tensor:
        """Read images with the queries: float[B, P, Dv] -> float[B, Q, Dq]; ``instructions`` are ignored."""
        queries = self.query_tokens.expand(image_embeds.shape[0], -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state


class ZiyaInstructModel(ForwardSteps, InstructBlipForConditionalGeneration):  # type: ignore[misc]
    """Stock ``InstructBlipForConditionalGeneration``: queries see the question while they read the image.

    ``qformer_tokenizer`` turns the question into the Q-Former's token ids. Whoever builds or opens the model
    sets it; it is saved in a folder of its own.
    """

    stock_name = "InstructBlipForConditionalGeneration"

    def __init__(self, config: InstructBlipConfig) -> None:
        super().__init__(config)
        self.qformer_tokenizer: Any = None

    def query_images(self, image_embeds: Tensor, instructions: Instructions) -> Tensor:
        """Read each image for its question: float[B, P, Dv] -> float[B, Q, Dq]."""
        ids, mask = instructions
        queries = self.query_tokens.expand(image_embeds.shape[0], -1, -1)
        count = queries.shape[1]
        hidden = self.qformer(
            input_ids=ids,
            attention_mask=torch.cat([mask.new_ones(len(mask), count), mask], 1),
            query_embeds=queries,
            encoder_hidden_states=image_embeds,
        ).last_hidden_state
        return hidden[:, :count]


VisualModel = ZiyaVisualModel | ZiyaInstructModel
