"""Texts for the Q-Former's text side: token lists padded to a rectangle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ziya_visual.data.chat_format import ChatFormat


def text_ids(chat: ChatFormat, text: str, limit: int) -> list[int]:
    """``<s>`` where there is one, the text, ``</s>``; the text is cut so that all are ``limit`` at most."""
    return [*chat.bos_ids, *chat.text_ids(text)[: limit - 2], chat.eos_id]


def pad(encoded: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token lists -> ids and mask, int64[B, T] each, 1 where there is a token."""
    length = max(map(len, encoded))
    ids = np.full((len(encoded), length), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask
