"""The packed forward: a causal language model over rows whose branches share a prefix.

Works on any decoder of transformers that takes ``inputs_embeds``, a 4D ``attention_mask`` and
``position_ids``.

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
from ziya_visual.model.packed.attention import PLAIN, build_tree, round_up

FLEX = "flex_attention"  # transformers' name of it
PIECE = 16  # tokens of a segment of those that are added


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss is a sum and a count: divide once, by the number of tokens of the whole step."""

    total: Tensor  # float32[]
    count: int


def dense_mask(lengths: Lengths, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each token of packed rows sees, [1, 1, T, T]: 0 where it sees, else the dtype's lowest value."""
    found = segments(lengths)
    rows, branches = (np.repeat(x, found.lengths) for x in (found.rows, found.branches))
    shared = (branches == 0) | (branches[:, None] == branches)
    sees = torch.from_numpy((rows[:, None] == rows) & shared & np.tri(len(rows), dtype=bool))
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[None, None]


def block_mask(lengths: Lengths, device: torch.device) -> BlockMask:
    """The same for FlexAttention, which passes over the blocks in which nothing is seen."""
    found = segments(lengths)
    sizes = torch.from_numpy(found.lengths)
    rows, branches = (
        torch.from_numpy(x).repeat_interleave(sizes).to(device) for x in (found.rows, found.branches)
    )

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shared = (branches[key] == 0) | (branches[key] == branches[query])
        return (rows[query] == rows[key]) & shared & (key <= query)

    tokens = int(sizes.sum())
    return create_block_mask(sees, None, None, tokens, tokens, device=device)


def packed_hidden_states(
    language_model: Any, batch: PackedBatch, *, image_id: int = -1, image_prefix: Tensor | None = None
) -> Tensor:
    """The decoder's last hidden states of packed rows, float[T, D].

    Args:
        language_model: a causal LM of transformers, or one wrapped by peft.
        batch: the packed rows.
        image_id: the placeholder's token id.
        image_prefix: float[N, Q, D], the images' tokens in the order of their placeholders.

    Raises:
        ValueError: the batch holds another number of placeholders than the images have tokens.
    """
    embedding = language_model.get_input_embeddings()
    ids = torch.from_numpy(batch.input_ids).to(embedding.weight.device)
    embeds = embedding(ids)
    if image_prefix is not None:
        spots = (ids == image_id).unsqueeze(-1)
        tokens = image_prefix.shape[0] * image_prefix.shape[1]
        if int(spots.sum()) != tokens:
            raise ValueError(f"{int(spots.sum())} image placeholders in the batch for {tokens} image tokens")
        embeds = embeds.masked_scatter(spots, image_prefix.to(embeds.dtype))
    return decoder_hidden_states(language_model, embeds, torch.from_numpy(batch.position_ids), batch.lengths)


def decoder_hidden_states(
    language_model: Any, embeds: Tensor, position_ids: Tensor, lengths: Lengths
) -> Tensor:
    """The decoder over packed rows: float[T, D], int64[T] -> float[T, D].

    With our attention, and with FlexAttention, each segment meets its prefix alone. With another a dense mask
    over all tokens says so, which costs their number squared.
    """
    decoder = causal_lm(language_model).base_model
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        name = type(causal_lm(language_model)).__name__
        raise ValueError(
            f"{name} takes no position_ids, and cannot be told where the branches of a row begin"
        )
    tokens = len(embeds)
    dtype = compute_dtype(embeds)
    if decoder.config._attn_implementation == PLAIN:
        more = round_up(tokens) - tokens
        embeds, position_ids = F.pad(embeds, (0, 0, 0, more)), F.pad(position_ids, (0, more))
        lengths = (*lengths, (0, *[PIECE] * (more // PIECE), more % PIECE))
        # The empty mask fails aloud in a decoder that does not hand the tree on to its attention.
        tree = build_tree(lengths, dtype=dtype, device=embeds.device)
        extra = {"tree": tree, "attention_mask": embeds.new_empty(1, 1, 0, 0)}
    elif decoder.config._attn_implementation == FLEX:
        extra = {"attention_mask": block_mask(lengths, embeds.device)}
    else:
        extra = {"attention_mask": dense_mask(lengths, dtype).to(embeds.device)}
    states: Tensor = decoder(
        inputs_embeds=embeds[None],
        position_ids=position_ids.to(embeds.device)[None],
        use_cache=False,
        **extra,
    ).last_hidden_state[0]
    return states[:tokens]


def packed_loss(
    language_model: Any, batch: PackedBatch, *, image_id: int = -1, image_prefix: Tensor | None = None
) -> dict[int, LossSum]:
    """The summed cross-entropy of all supervised tokens by language; see :func:`packed_hidden_states`."""
    states = packed_hidden_states(language_model, batch, image_id=image_id, image_prefix=image_prefix)
    labels = torch.from_numpy(batch.labels).to(states.device)
    learnt = torch.nonzero(labels != IGNORE)[:, 0]
    count = len(learnt)
    places = F.pad(learnt, (0, round_up(count) - count))
    targets = labels[places]
    targets[count:] = IGNORE
    losses = token_losses(causal_lm(language_model).get_output_embeddings(), states[places], targets)[:count]
    langs = torch.from_numpy(batch.langs).to(states.device)[learnt]
    return {
        int(lang): LossSum(losses[langs == lang].sum(), int((langs == lang).sum()))
        for lang in torch.unique(langs)
    }


def causal_lm(language_model: Any) -> Any:
    """The model itself where peft wraps it."""
    return language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model


def mean_loss(sums: dict[int, LossSum]) -> Tensor:
    """The mean over all supervised tokens, float32[]."""
    return torch.stack([part.total for part in sums.values()]).sum() / sum(
        part.count for part in sums.values()
    )


LOGITS = 1 << 27  # at once where the head learns: 0.5 GB in float32, and as much for their gradients
FROZEN_LOGITS = 1 << 22  # where it does not: they stay in a processor's cache


def token_losses(head: Any, states: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies float32[S] of float[S, D] for targets int64[S]; 0 where the target is ``IGNORE``.

    ``head`` is the layer of the vocabulary, or what peft made of it.
    """
    if type(head) is nn.Linear and not isinstance(head.weight, DTensor) and _frozen(head):
        losses: Tensor = _FrozenHead.apply(states, head.weight, head.bias, targets, compute_dtype(states))
        return losses
    pieces = -(-len(states) * head.weight.shape[0] // LOGITS)
    if pieces <= 1:
        return _losses(head, states, targets)
    some = zip(states.chunk(pieces), targets.chunk(pieces), strict=True)
    return torch.cat([checkpoint(_losses, head, s, t, use_reentrant=False) for s, t in some])


def compute_dtype(states: Tensor) -> torch.dtype:
    """What matrix products of these states are computed in: autocast's dtype where it is on."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _frozen(head: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in head.parameters())


def _losses(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(states).float(), targets, reduction="none", ignore_index=IGNORE)


class _FrozenHead(torch.autograd.Function):
    """Losses whose gradients by the states are made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            weight = weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            size = max(1, FROZEN_LOGITS // len(weight))
            found = [
                _losses_and_gradients(s, weight, bias, t, wanted=ctx.needs_input_grad[0])
                for s, t in zip(states.to(dtype).split(size), targets.split(size), strict=True)
            ]
        losses, gradients = zip(*found, strict=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
            ctx.dtype = states.dtype
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad[:, None]).to(ctx.dtype), None, None, None, None


def _losses_and_gradients(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Of a few tokens: float32[S], and float[S, D] where it is wanted."""
    logits = F.linear(states, weight, bias).float()
    learnt = targets != IGNORE
    places = targets.clamp(min=0)[:, None]
    whole = logits.logsumexp(1)
    losses = (whole - logits.gather(1, places)[:, 0]) * learnt
    if not wanted:
        return losses, None
    error = logits.sub_(whole[:, None]).exp_()  # the softmax, less 1 at the target
    error.scatter_add_(1, places, -torch.ones_like(places, dtype=error.dtype))
    error.mul_(learnt[:, None])
    return losses, error.to(weight.dtype) @ weight
