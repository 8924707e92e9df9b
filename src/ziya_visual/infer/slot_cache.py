"""Keys and values of prompts that are decoded together: one buffer a layer, a row a slot.

Every token is written at its own position of its slot, so that rows need not be aligned.

Legend: B rows of a call, T tokens a row, H key heads, E head width, W visible positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziya_visual.infer.prefix_cache import Prefix


class SlotCache:
    """Keys and values of all slots, and where the present call writes; stock attention calls ``update``."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rows: Tensor = torch.empty(0, dtype=torch.long)
        self._positions: Tensor = torch.empty(0, dtype=torch.long)
        self._slots = slice(0, 0)  # the same rows
        self._start: int | None = None  # of the positions, where all rows have the same
        self._width = self._needed = 0
        self._reserved = (0, 0)

    def reserve(self, rows: int, length: int) -> None:
        """What will be needed soon, in rows and positions: room is made for it at once, not bit by bit."""
        self._reserved = max(rows, self._reserved[0]), max(length, self._reserved[1])

    def aim(self, rows: Tensor, positions: Tensor, width: int) -> None:
        """The next call writes rows int64[B], side by side, at positions int64[B, T], and sees ``width``."""
        first, last = int(rows[0]), int(rows[-1])
        assert last - first + 1 == len(rows)
        self._rows, self._positions, self._width = rows, positions, width
        # Numbers are taken out of tensors once, here: in every layer that would cost more than a copy.
        self._slots, self._needed = slice(first, last + 1), max(width, int(positions.max()) + 1)
        same = len(rows) == 1 or positions.stride(0) == 0
        self._start = int(positions[0, 0]) if same else None

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Write float[B, H, T, E] and return what the rows see, float[B, H, W, E] each."""
        self._grow(layer_idx, keys[0], values[0])
        seen = []
        for buffer, new in ((self._keys[layer_idx], keys), (self._values[layer_idx], values)):
            if self._start is not None:
                buffer[self._slots, :, self._start : self._start + new.shape[2]] = new
            else:
                buffer[self._rows[:, None], :, self._positions] = new.transpose(1, 2).to(buffer.dtype)
            seen.append(buffer[self._slots, :, : self._width])
        return seen[0], seen[1]

    def put_prefixes(self, prefixes: Sequence[Prefix], rows: Tensor) -> None:
        """Write prefixes of one length into rows int64[B], each from its first position."""
        length = prefixes[0].length
        self.aim(rows, torch.arange(length)[None].expand(len(rows), -1), length)
        for layer, (keys, values) in enumerate(zip(prefixes[0].keys, prefixes[0].values, strict=True)):
            self._grow(layer, keys, values)
            for row, prefix in zip(rows.tolist(), prefixes, strict=True):
                self._keys[layer][row, :, :length] = prefix.keys[layer]
                self._values[layer][row, :, :length] = prefix.values[layer]

    def prefix(self, row: int, length: int) -> Prefix:
        """The beginning of a row, copied out of the buffers."""
        keys, values = (
            tuple(buffer[row, :, :length].clone() for buffer in buffers)
            for buffers in (self._keys, self._values)
        )
        return Prefix(keys, values)

    def keep(self, rows: Tensor) -> None:
        """Move the given rows to the front, in their order; the others are given up."""
        self._reserved = 0, self._reserved[1]
        self._keys = [buffer[rows] for buffer in self._keys]
        self._values = [buffer[rows] for buffer in self._values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Of no use here, since positions are always given; stock code asks for it."""
        return 0

    def _grow(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Room for the rows and positions aimed at, in steps, so that copies are rare.

        A new layer has the heads and widths of what is written there, float[H, any, E].
        """
        if layer == len(self._keys):
            self._keys.append(keys.new_zeros(0, keys.shape[0], 0, keys.shape[2]))
            self._values.append(values.new_zeros(0, values.shape[0], 0, values.shape[2]))
        buffer = self._keys[layer]
        rows, length = self._slots.stop, self._needed
        if rows <= buffer.shape[0] and length <= buffer.shape[2]:
            return
        shape = list(buffer.shape)
        shape[0] = max(shape[0], rows, self._reserved[0])
        shape[2] = max(shape[2], length, min(length + 64, self._reserved[1]))
        for buffers in (self._keys, self._values):
            grown = buffers[layer].new_zeros(shape)
            grown[: buffer.shape[0], :, : buffer.shape[2]] = buffers[layer]
            buffers[layer] = grown
