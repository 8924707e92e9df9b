"""The packed forward: a causal language model over rows whose branches share a prefix.

Works on any decoder of transformers that takes ``inputs_embeds``, a 4D ``attention_mask`` and
``position_ids``.

Legend: B rows, L tokens a row, D width, S supervised tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ziya_visual.data.packing import IGNORE, PADDING, PackedBatch


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss is a sum and a count: divide once, by the number of tokens of the whole step."""

    total: Tensor  # float32[]
    count: int


def tree_mask(branch_ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each token sees, as an additive mask.

    Args:
        branch_ids: int64[B, L] as :class:`PackedBatch` holds them.
        dtype: of the result.

    Returns:
        [B, 1, L, L], 0 where row i sees column j, else the dtype's lowest value. Padding sees itself alone,
        so that no row of a softmax is empty.
    """
    length = branch_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch_ids.device).tril()
    rows, columns = branch_ids[:, :, None], branch_ids[:, None, :]
    real = (rows != PADDING) & (columns != PADDING)
    sees = causal & real & ((columns == 0) | (columns == rows))
    sees |= torch.eye(length, dtype=torch.bool, device=branch_ids.device)
    mask = torch.zeros(sees.shape, dtype=dtype, device=branch_ids.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def packed_states(
    language_model: Any, batch: PackedBatch, *, image_id: int = -1, image_prefix: Tensor | None = None
) -> Tensor:
    """The decoder's last hidden states of packed rows, float[B, L, D].

    Args:
        language_model: a causal LM of transformers, or one wrapped by peft.
        batch: the packed rows.
        image_id: the placeholder's token id.
        image_prefix: float[N, Q, D], the images' tokens in the order of their placeholders.

    Raises:
        ValueError: the batch holds another number of placeholders than the images have tokens.
    """
    device = language_model.get_input_embeddings().weight.device
    ids = torch.from_numpy(batch.input_ids).to(device)
    embeds = language_model.get_input_embeddings()(ids)
    if image_prefix is not None:
        spots = (ids == image_id).unsqueeze(-1)
        tokens = image_prefix.shape[0] * image_prefix.shape[1]
        if int(spots.sum()) != tokens:
            raise ValueError(f"{int(spots.sum())} image placeholders in the batch for {tokens} image tokens")
        embeds = embeds.masked_scatter(spots, image_prefix.to(embeds.dtype))
    states: Tensor = (
        _causal_lm(language_model)
        .model(
            inputs_embeds=embeds,
            attention_mask=tree_mask(torch.from_numpy(batch.branch_ids).to(device), _compute_dtype(embeds)),
            position_ids=torch.from_numpy(batch.position_ids).to(device),
            use_cache=False,
        )
        .last_hidden_state
    )
    return states


def packed_loss(
    language_model: Any, batch: PackedBatch, *, image_id: int = -1, image_prefix: Tensor | None = None
) -> dict[int, LossSum]:
    """The summed cross-entropy of all supervised tokens by language; see :func:`packed_states`."""
    states = packed_states(language_model, batch, image_id=image_id, image_prefix=image_prefix)
    labels = torch.from_numpy(batch.labels).to(states.device)
    learnt = labels != IGNORE
    logits = (
        _causal_lm(language_model).lm_head(states[learnt]).float()
    )  # [S, V]: only where something is learnt
    losses = F.cross_entropy(logits, labels[learnt], reduction="none")
    langs = torch.from_numpy(batch.langs).to(states.device)[learnt]
    return {
        int(lang): LossSum(losses[langs == lang].sum(), int((langs == lang).sum()))
        for lang in torch.unique(langs)
    }


def _compute_dtype(embeds: Tensor) -> torch.dtype:
    """What attention scores are computed in: a mask of that dtype is not converted anew in every layer."""
    device = embeds.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeds.dtype


def _causal_lm(language_model: Any) -> Any:
    """The model itself where peft wraps it."""
    return language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model


def mean_loss(sums: dict[int, LossSum]) -> Tensor:
    """The mean over all supervised tokens, float32[]."""
    return torch.stack([part.total for part in sums.values()]).sum() / sum(
        part.count for part in sums.values()
    )
