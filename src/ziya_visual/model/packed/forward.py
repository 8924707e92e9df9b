"""The packed forward pass: a causal language model over rows whose branches share a prefix.

It works with any decoder of transformers that takes ``inputs_embeds``, a 4D ``attention_mask`` and
``position_ids``. The logits never exist all at once: behind a frozen head each token's gradient is computed
together with its loss, and a trained head runs in pieces that are recomputed.

Legend: T tokens of all rows, D width, S supervised tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils.checkpoint import checkpoint

from ziya_visual.data.packing import IGNORE, Lengths, PackedBatch, segments
from ziya_visual.model.packed.attention import PLAIN, additive_mask, build_tree, round_up

FLEX = "flex_attention"  # transformers' name
PADDING_SEGMENT = 16  # tokens
LOGITS = 1 << 27  # at once under a trained head: 0.5 GB in float32, and as much for their gradients
FROZEN_LOGITS = 1 << 22  # at once under a frozen head: they stay in a processor's cache


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss as a sum and a count: divide once, by the number of tokens of the whole step."""

    total: Tensor  # float32[]
    count: int


def dense_mask(lengths: Lengths, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the additive mask of packed rows, [1, 1, T, T]: 0 if visible, else the dtype's lowest value."""
    layout = segments(lengths)
    rows, branches = (np.repeat(x, layout.lengths) for x in (layout.rows, layout.branches))
    shared = (branches == 0) | (branches[:, None] == branches)
    visible = torch.from_numpy((rows[:, None] == rows) & shared & np.tri(len(rows), dtype=bool))
    return additive_mask(visible, dtype)[None, None]


def block_mask(lengths: Lengths, device: torch.device) -> BlockMask:
    """Return the same mask for FlexAttention, which skips blocks where nothing is visible."""
    layout = segments(lengths)
    sizes = torch.from_numpy(layout.lengths)
    rows, branches = (
        torch.from_numpy(x).repeat_interleave(sizes).to(device) for x in (layout.rows, layout.branches)
    )

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shared = (branches[key] == 0) | (branches[key] == branches[query])
        return (rows[query] == rows[key]) & shared & (key <= query)

    tokens = int(sizes.sum())
    return create_block_mask(visible, None, None, tokens, tokens, device=device)


def packed_hidden_states(
    language_model: Any, batch: PackedBatch, *, image_id: int = -1, image_prefix: Tensor | None = None
) -> Tensor:
    """Run the decoder over packed rows and return its last hidden states, float[T, D].

    With our attention and with FlexAttention each segment meets only its prefix and itself. Any other
    attention gets a dense mask over all tokens, which costs their number squared.

    ``language_model`` may be wrapped by peft. ``image_prefix`` float[N, Q, D] are the images' tokens in the
    order of their placeholders, tokens ``image_id``.
    """
    embedding = language_model.get_input_embeddings()
    ids = torch.from_numpy(batch.input_ids).to(embedding.weight.device)
    embeds = embedding(ids)
    if image_prefix is not None:
        placeholders = (ids == image_id).unsqueeze(-1)
        actual, expected = int(placeholders.sum()), image_prefix.shape[0] * image_prefix.shape[1]
        if actual != expected:
            raise ValueError(f"{actual} image placeholders in the batch for {expected} image tokens")
        embeds = embeds.masked_scatter(placeholders, image_prefix.to(embeds.dtype))
    decoder = causal_lm(language_model).base_model
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        name = type(causal_lm(language_model)).__name__
        raise ValueError(f"{name} takes no position_ids, so it cannot be told where a row's branches begin")
    position_ids, lengths = torch.from_numpy(batch.position_ids), batch.lengths
    tokens, dtype = len(embeds), compute_dtype(embeds)
    if decoder.config._attn_implementation == PLAIN:
        padding = round_up(tokens) - tokens
        embeds, position_ids = F.pad(embeds, (0, 0, 0, padding)), F.pad(position_ids, (0, padding))
        full, rest = divmod(padding, PADDING_SEGMENT)
        lengths = (*lengths, (0, *[PADDING_SEGMENT] * full, rest))
        # The empty mask raises in a decoder that does not pass the tree to its attention.
        tree = build_tree(lengths, dtype=dtype, device=embeds.device)
        extra = {"tree": tree, "attention_mask": embeds.new_empty(1, 1, 0, 0)}
    elif decoder.config._attn_implementation == FLEX:
        extra = {"attention_mask": block_mask(lengths, embeds.device)}
    else:
        extra = {"attention_mask": dense_mask(lengths, dtype).to(embeds.device)}
    positions = position_ids.to(embeds.device)[None]
    hidden = decoder(inputs_embeds=embeds[None], position_ids=positions, use_cache=False, **extra)
    return hidden.last_hidden_state[0, :tokens]


def packed_loss(
    language_model: Any, batch: PackedBatch, *, image_id: int = -1, image_prefix: Tensor | None = None
) -> dict[int, LossSum]:
    """Return the summed cross-entropy of supervised tokens by language; see :func:`packed_hidden_states`."""
    hidden = packed_hidden_states(language_model, batch, image_id=image_id, image_prefix=image_prefix)
    labels = torch.from_numpy(batch.labels).to(hidden.device)
    supervised = torch.nonzero(labels != IGNORE)[:, 0]
    count = len(supervised)
    places = F.pad(supervised, (0, round_up(count) - count))
    targets = labels[places]
    targets[count:] = IGNORE
    losses = token_losses(causal_lm(language_model).get_output_embeddings(), hidden[places], targets)[:count]
    langs = torch.from_numpy(batch.langs).to(hidden.device)[supervised]
    return {
        int(lang): LossSum(losses[langs == lang].sum(), int((langs == lang).sum()))
        for lang in torch.unique(langs)
    }


def causal_lm(language_model: Any) -> Any:
    """Return the causal LM itself if peft wraps it."""
    return language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model


def mean_loss(sums: dict[int, LossSum]) -> Tensor:
    """Return the mean over all supervised tokens, float32[]."""
    total = torch.stack([part.total for part in sums.values()]).sum()
    return total / sum(part.count for part in sums.values())


def token_losses(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropies float32[S] of float[S, D] for int64[S]; 0 where the target is ``IGNORE``.

    ``head`` is the output layer, plain or wrapped by peft.
    """
    plain = type(head) is nn.Linear and not isinstance(head.weight, DTensor)
    if plain and not any(parameter.requires_grad for parameter in head.parameters()):
        losses: Tensor = _FrozenHead.apply(hidden, head.weight, head.bias, targets, compute_dtype(hidden))
        return losses
    pieces = -(-len(hidden) * head.weight.shape[0] // LOGITS)
    if pieces <= 1:
        return _losses(head, hidden, targets)
    chunks = zip(hidden.chunk(pieces), targets.chunk(pieces), strict=True)
    return torch.cat([checkpoint(_losses, head, h, t, use_reentrant=False) for h, t in chunks])


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with this tensor: autocast's if autocast is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="none", ignore_index=IGNORE)


class _FrozenHead(torch.autograd.Function):
    """Losses whose gradients with respect to the hidden states are computed in the forward pass.

    A token's loss depends on its own hidden state alone, so its gradient can be computed while its logits
    exist: a large vocabulary is passed over once instead of five times.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            weight = weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            size = max(1, FROZEN_LOGITS // len(weight))
            chunks = [
                _losses_and_gradients(h, weight, bias, t, with_gradients=ctx.needs_input_grad[0])
                for h, t in zip(hidden.to(dtype).split(size), targets.split(size), strict=True)
            ]
        losses, gradients = zip(*chunks, strict=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
            ctx.dtype = hidden.dtype
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad[:, None]).to(ctx.dtype), None, None, None, None


def _losses_and_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, with_gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """Return losses float32[S] of a few tokens, and their gradients float[S, D] or None."""
    logits = F.linear(hidden, weight, bias).float()
    supervised = targets != IGNORE
    places = targets.clamp(min=0)[:, None]
    log_norm = logits.logsumexp(1)
    losses = (log_norm - logits.gather(1, places)[:, 0]) * supervised
    if not with_gradients:
        return losses, None
    error = logits.sub_(log_norm[:, None]).exp_()  # the softmax, minus 1 at the target
    error.scatter_add_(1, places, -torch.ones_like(places, dtype=error.dtype))
    error.mul_(supervised[:, None])
    return losses, error.to(weight.dtype) @ weight
