"""The Q-Former's text side: contrastive, matching and grounded-generation passes (BLIP-2, section 3.2).

The self-attention is the one that the image queries use; text has feed-forwards of its own, as in stock
``Blip2ForImageTextRetrieval``. Stock modules throughout; only the masks between queries and text are ours.

Legend: B texts, T tokens a text, Q queries, P patches + 1, Dq Q-Former width, Dp projection width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import (
    Blip2QFormerIntermediate,
    Blip2QFormerLayer,
    Blip2QFormerOutput,
    Blip2TextEmbeddings,
)

from ziya_visual.model.network import ZiyaVisualModel


class TextFeedForward(nn.Module):
    """One layer's feed-forward for text: the keys of a stock layer's ``intermediate`` and ``output``."""

    def __init__(self, config: Blip2QFormerConfig) -> None:
        super().__init__()
        self.intermediate = Blip2QFormerIntermediate(config)
        self.output = Blip2QFormerOutput(config)

    def forward(self, states: Tensor) -> Tensor:
        """float[B, T, Dq] -> the same."""
        return self.output(self.intermediate(states), states)


class Alignment(nn.Module):
    """What retrieval and stage 1 need besides the generating network.

    ``qformer_tokenizer`` gives the ids that its embeddings have rows for; None where that is the language
    model's tokenizer.
    """

    def __init__(self, config: Blip2QFormerConfig, *, projection_size: int) -> None:
        super().__init__()
        self.qformer_tokenizer: Any = None
        width = config.hidden_size
        self.embeddings = Blip2TextEmbeddings(config)
        self.feed_forwards = nn.ModuleList(TextFeedForward(config) for _ in range(config.num_hidden_layers))
        self.vision_projection = nn.Linear(width, projection_size)
        self.text_projection = nn.Linear(width, projection_size)
        self.itm_head = nn.Linear(width, 2)
        self.lm_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def image_features(self, queries: Tensor) -> Tensor:
        """float[B, Q, Dq] -> unit vectors float[B, Q, Dp]."""
        return F.normalize(self.vision_projection(queries), dim=-1)

    def text_features(self, model: ZiyaVisualModel, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors float[B, Dp] of texts alone, from their first token, as stock does.

        ``input_ids`` int64[B, T]; ``mask`` int64[B, T], 1 for tokens and 0 for padding.
        """
        states = self._layers(model, self.embeddings(input_ids), 0, mask[:, None, None, :], None)
        return F.normalize(self.text_projection(states[:, 0]), dim=-1)

    def matching_logits(
        self, model: ZiyaVisualModel, image_embeds: Tensor, input_ids: Tensor, mask: Tensor
    ) -> Tensor:
        """float[B, 2] (no match, match): queries and text see each other, queries see the image."""
        queries = model.query_tokens.expand(len(input_ids), -1, -1)
        count = queries.shape[1]
        sees = torch.cat([mask.new_ones(len(mask), count), mask], 1)[:, None, None, :]
        states = torch.cat([queries, self.embeddings(input_ids)], 1)
        states = self._layers(model, states, count, sees, image_embeds)
        return self.itm_head(states[:, :count]).mean(1)

    def grounded_logits(
        self, model: ZiyaVisualModel, image_embeds: Tensor, input_ids: Tensor, mask: Tensor
    ) -> Tensor:
        """float[B, T, V]: queries see queries and image, text sees queries and what stands before it."""
        queries = model.query_tokens.expand(len(input_ids), -1, -1)
        count, length = queries.shape[1], input_ids.shape[1]
        sees = torch.zeros(count + length, count + length, dtype=mask.dtype, device=mask.device)
        sees[:, :count] = 1
        sees[count:, count:] = torch.ones(length, length, dtype=mask.dtype, device=mask.device).tril()
        real = torch.cat([mask.new_ones(len(mask), count), mask], 1)[:, None, None, :]
        states = torch.cat([queries, self.embeddings(input_ids)], 1)
        states = self._layers(model, states, count, sees[None, None] * real, image_embeds)
        return F.linear(states[:, count:], self.embeddings.word_embeddings.weight, self.lm_bias)

    def _layers(
        self, model: ZiyaVisualModel, states: Tensor, queries: int, sees: Tensor, image: Tensor | None
    ) -> Tensor:
        """Run the stock layers, each with its feed-forward for text lent from here.

        Args:
            model: whose Q-Former is run.
            states: float[B, Q + T, Dq].
            queries: how many of the first positions are queries.
            sees: [B or 1, 1, 1 or L, L], 1 where a position is seen.
            image: float[B, P, Dv], or None for text alone.
        """
        qformer = model.qformer
        states = qformer.dropout(qformer.layernorm(states))
        hidden = (1.0 - sees.to(states.dtype)) * torch.finfo(states.dtype).min
        for layer, feed_forward in zip(qformer.encoder.layer, self.feed_forwards, strict=True):
            states = _layer(layer, feed_forward, states, queries, hidden, image)
        return states


def _layer(
    layer: Blip2QFormerLayer,
    feed_forward: nn.Module,
    states: Tensor,
    queries: int,
    hidden: Tensor,
    image: Tensor | None,
) -> Tensor:
    states = layer.attention(hidden_states=states, attention_mask=hidden)
    text = feed_forward(states[:, queries:])
    if queries == 0:
        return text
    read = states[:, :queries]
    if layer.has_cross_attention:
        read = layer.crossattention(hidden_states=read, encoder_hidden_states=image)
    return torch.cat([layer.feed_forward_chunk_query(read), text], 1)
