"""Texts for the Q-Former's text side: token lists padded to a rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziya_visual.data.chat.chat_format import ChatFormat


def text_batch(
    texts: Sequence[str], *, limit: int, chat: ChatFormat, own: Any | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Texts as the Q-Former reads them -> ids and mask, int64[B, T] each; see :func:`pad`.

    Args:
        texts: plain; special tokens spelt in them stay text.
        limit: of tokens a text, the rest is cut off.
        chat: of the language model, whose tokenizer the Q-Former shares,
        own: unless it has one of its own, with ``[CLS]`` and ``[SEP]`` around a text where it has these.
    """
    if own is None:
        return pad([text_ids(chat, text, limit) for text in texts], chat.pad_id)
    head, tail = edges(chat, own)
    plain = own(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return pad([[*head, *ids[: limit - 2], *tail] for ids in plain], own.pad_token_id or 0)


def edges(chat: ChatFormat, own: Any | None) -> tuple[list[int], list[int]]:
    """What stands before and behind a text: a token or none each; see :func:`text_batch`."""
    if own is None:
        return chat.bos_ids, [chat.eos_id]
    first = own.bos_token_id if own.cls_token_id is None else own.cls_token_id
    last = own.eos_token_id if own.sep_token_id is None else own.sep_token_id
    return [] if first is None else [first], [] if last is None else [last]


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
