"""The network: stock BLIP-2 or InstructBLIP with a causal language model, and the Q-Former's text side.

``ZiyaVisualModel`` and ``ZiyaInstructModel`` add no parameter to their stock classes. Retrieval and stage 1
also need an :class:`Alignment`, which is saved in a file of its own: the contrastive, matching and
grounded-generation passes of BLIP-2, section 3.2. Its text shares the queries' self-attention and has its own
feed-forwards, as in stock ``Blip2ForImageTextRetrieval``. Only the masks between queries and text are ours.

Legend: B images or texts, P patches + 1, Dv ViT width, Q queries, Dq Q-Former width, D language model width,
Dp projection width, T tokens per text, V vocabulary, L positions: Q + T, or T for text alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)
from transformers.models.blip_2.modeling_blip_2 import (
    Blip2QFormerIntermediate,
    Blip2QFormerOutput,
    Blip2TextEmbeddings,
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


class TextFeedForward(nn.Module):
    """One layer's feed-forward for text, with the keys ``intermediate`` and ``output`` of a stock layer."""

    def __init__(self, config: Blip2QFormerConfig) -> None:
        super().__init__()
        self.intermediate = Blip2QFormerIntermediate(config)
        self.output = Blip2QFormerOutput(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[B, T, Dq] to the same shape."""
        return self.output(self.intermediate(hidden), hidden)


class Alignment(nn.Module):
    """The modules that retrieval and stage 1 need besides the generating network.

    ``qformer_tokenizer`` makes the ids of its embeddings; None means the language model's tokenizer.
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
        """Project queries to unit vectors: float[B, Q, Dq] -> float[B, Q, Dp]."""
        return F.normalize(self.vision_projection(queries), dim=-1)

    def text_features(self, model: ZiyaVisualModel, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors float[B, Dp] of texts alone, from their first token, as stock does.

        ``input_ids`` int64[B, T]; ``mask`` int64[B, T], 1 for tokens and 0 for padding.
        """
        hidden = self._run_layers(model, self.embeddings(input_ids), 0, mask[:, None, None, :], None)
        return F.normalize(self.text_projection(hidden[:, 0]), dim=-1)

    def matching_logits(
        self, model: ZiyaVisualModel, image_embeds: Tensor, input_ids: Tensor, mask: Tensor
    ) -> Tensor:
        """Return float[B, 2] (no match, match): queries and text see each other, queries see the image."""
        hidden, count, real = self._joint_input(model, input_ids, mask)
        hidden = self._run_layers(model, hidden, count, real, image_embeds)
        return self.itm_head(hidden[:, :count]).mean(1)

    def grounded_logits(
        self, model: ZiyaVisualModel, image_embeds: Tensor, input_ids: Tensor, mask: Tensor
    ) -> Tensor:
        """Return float[B, T, V]: queries see queries and image, text sees queries and the text before it."""
        hidden, count, real = self._joint_input(model, input_ids, mask)
        visible = torch.ones(hidden.shape[1], hidden.shape[1], dtype=mask.dtype, device=mask.device).tril()
        visible[:, :count] = 1
        hidden = self._run_layers(model, hidden, count, visible * real, image_embeds)
        return F.linear(hidden[:, count:], self.embeddings.word_embeddings.weight, self.lm_bias)

    def _joint_input(
        self, model: ZiyaVisualModel, input_ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, int, Tensor]:
        """Return queries and text float[B, L, Dq], the number of queries, and the mask [B, 1, 1, L]."""
        queries = model.query_tokens.expand(len(input_ids), -1, -1)
        real = torch.cat([mask.new_ones(len(mask), queries.shape[1]), mask], 1)[:, None, None, :]
        return torch.cat([queries, self.embeddings(input_ids)], 1), queries.shape[1], real

    def _run_layers(
        self, model: ZiyaVisualModel, hidden: Tensor, queries: int, visible: Tensor, image: Tensor | None
    ) -> Tensor:
        """Run the model's Q-Former layers on float[B, L, Dq], with this module's feed-forwards for text.

        The first ``queries`` positions are queries. ``visible`` [B or 1, 1, 1 or L, L] is 1 where a position
        is seen. ``image`` is float[B, P, Dv], or None for text alone.
        """
        qformer = model.qformer
        hidden = qformer.dropout(qformer.layernorm(hidden))
        mask = (1.0 - visible.to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        for layer, feed_forward in zip(qformer.encoder.layer, self.feed_forwards, strict=True):
            hidden = layer.attention(hidden_states=hidden, attention_mask=mask)
            text = feed_forward(hidden[:, queries:])
            if queries == 0:
                hidden = text
                continue
            read = hidden[:, :queries]
            if layer.has_cross_attention:
                read = layer.crossattention(hidden_states=read, encoder_hidden_states=image)
            hidden = torch.cat([layer.feed_forward_chunk_query(read), text], 1)
        return hidden
