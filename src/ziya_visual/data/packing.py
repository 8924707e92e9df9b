"""Packed rows and padded batches of token ids.

A packed row holds an image (or any shared prefix) once, then all its texts as branches.

A worked example, prefix ``P P`` and branches ``a b`` and ``c d``; row i sees column j where there is an x::

              P P a b c d     branch  position
         P    x . . . . .        0        0
         P    x x . . . .        0        1
         a    x x x . . .        1        2
         b    x x x x . .        1        3
         c    x x . . x .        2        2
         d    x x . . x x        2        3

Each branch thus computes what it would compute alone behind the prefix. Rows are concatenated unpadded.
Legend: T tokens of all rows, S segments (a segment is a prefix or a branch), B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziya_visual.data.chat.chat_format import ChatFormat, Encoded

IGNORE = -100
Ints = NDArray[np.int64]
Lengths = tuple[tuple[int, ...], ...]  # tokens of each row's prefix, then of its branches


@dataclass(frozen=True, slots=True)
class Branch:
    """One text of a row, and the number of its language, by which losses are summed."""

    encoded: Encoded
    lang: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A shared prefix and the texts that continue it."""

    prefix: Sequence[int]
    branches: Sequence[Branch]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """All rows concatenated, int64[T] each.

    ``labels`` holds the token to predict *at* a position, or ``IGNORE``; ``langs`` holds its language.
    """

    input_ids: Ints
    position_ids: Ints
    labels: Ints
    langs: Ints
    lengths: Lengths


@dataclass(frozen=True, slots=True)
class Segments:
    """Row, branch number, start and length of each segment, int64[S] each. A prefix is branch 0."""

    rows: Ints
    branches: Ints
    starts: Ints
    lengths: Ints


def segments(lengths: Lengths) -> Segments:
    """Return where the segments of packed rows of these lengths lie."""
    sizes = np.asarray([size for row in lengths for size in row], np.int64)
    rows = np.repeat(np.arange(len(lengths)), [len(row) for row in lengths])
    branches = np.concatenate([np.arange(len(row)) for row in lengths])
    return Segments(rows, branches, np.cumsum(sizes) - sizes, sizes)


def some_rows(batch: PackedBatch, first: int, end: int) -> PackedBatch:
    """Return rows ``first`` to ``end`` of a batch."""
    start, stop = (sum(map(sum, batch.lengths[:row])) for row in (first, end))
    arrays = (batch.input_ids, batch.position_ids, batch.labels, batch.langs)
    ids, positions, labels, langs = (array[start:stop] for array in arrays)
    return PackedBatch(ids, positions, labels, langs, batch.lengths[first:end])


def pack(rows: Sequence[Row]) -> PackedBatch:
    """Pack rows as in the module's example and concatenate them; ``ValueError`` if there is none."""
    if not rows:
        raise ValueError("nothing to pack: no rows")
    ids, positions, labels, langs = [], [], [], []
    for row in rows:
        start = len(row.prefix)
        pieces = [(np.asarray(row.prefix, np.int64), 0, np.full(start, IGNORE), 0)]
        for branch in row.branches:
            own = np.asarray(branch.encoded.ids, np.int64)
            targets = np.full(len(own), IGNORE)
            targets[:-1] = np.where(branch.encoded.supervised[1:], own[1:], IGNORE)
            pieces.append((own, start, targets, branch.lang))
        for own, position, targets, lang in pieces:
            ids.append(own)
            positions.append(np.arange(position, position + len(own)))
            labels.append(targets)
            langs.append(np.full(len(own), lang))
    lengths = tuple((len(row.prefix), *(len(b.encoded.ids) for b in row.branches)) for row in rows)
    arrays = [np.concatenate(lists) for lists in (ids, positions, labels, langs)]
    return PackedBatch(arrays[0], arrays[1], arrays[2], arrays[3], lengths)


def text_batch(
    texts: Sequence[str], *, limit: int, chat: ChatFormat, own: Any | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokenize and pad texts for the Q-Former -> ids and mask, int64[B, T] each; see :func:`pad`.

    Args:
        texts: plain texts; special tokens spelled in them stay text.
        limit: most tokens of a text; the rest is cut off.
        chat: chat format of the language model, whose tokenizer the Q-Former shares by default.
        own: the Q-Former's own tokenizer, with ``[CLS]`` and ``[SEP]`` around a text where it has these.
    """
    if own is None:
        cut = ([*chat.bos_ids, *chat.text_ids(text)[: limit - 2], chat.eos_id] for text in texts)
        return pad(list(cut), chat.pad_id)
    head, tail = edges(chat, own)
    plain = own(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return pad([[*head, *ids[: limit - 2], *tail] for ids in plain], own.pad_token_id or 0)


def edges(chat: ChatFormat, own: Any | None) -> tuple[list[int], list[int]]:
    """Return the tokens before and after a text, at most one each; see :func:`text_batch`."""
    if own is None:
        return chat.bos_ids, [chat.eos_id]
    first = own.bos_token_id if own.cls_token_id is None else own.cls_token_id
    last = own.eos_token_id if own.sep_token_id is None else own.sep_token_id
    return [] if first is None else [first], [] if last is None else [last]


def pad(encoded: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad token lists -> ids and mask, int64[B, T] each; the mask is 1 where there is a token."""
    length = max(map(len, encoded))
    ids = np.full((len(encoded), length), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask
