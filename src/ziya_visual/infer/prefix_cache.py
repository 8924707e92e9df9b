"""Caches for image tokens, and for the keys and values that dialogues about an image start with."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image
from torch import Tensor

from ziya_visual.core.pictures import pixel_hash

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of a prefix of P positions, float[H, P, E] per layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """Return P."""
        return int(self.keys[0].shape[1])

    @property
    def nbytes(self) -> int:
        """Return the memory that the prefix takes."""
        return sum(states.nbytes for states in (*self.keys, *self.values))


class ByteCache(Generic[Value]):
    """A thread-safe cache that evicts the least recently used values beyond ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def get(self, key: str) -> Value | None:
        """Return a value and mark it as used, or None if it is not cached."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: str, value: Value, nbytes: int) -> None:
        """Store a value, unless it is larger than the limit."""
        with self._lock:
            self._drop(key)
            self._entries[key] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self.limit:
                self._drop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: str) -> None:
        _, nbytes = self._entries.pop(key, (None, 0))
        self.nbytes -= nbytes


KeyedImage = tuple[str, Image.Image, str]  # content key, image, instruction for the Q-Former
Cached = TypeVar("Cached", Tensor, Prefix)


def key_images(images: Sequence[Image.Image], instructions: Sequence[str]) -> list[KeyedImage]:
    """Pair each image with its instruction, under a key of both."""
    return [
        (f"{pixel_hash(image)}{text}", image, text) for image, text in zip(images, instructions, strict=True)
    ]


def get_or_compute(
    cache: ByteCache[Cached],
    images: Sequence[KeyedImage],
    compute: Callable[[Sequence[KeyedImage]], list[Cached]],
    *,
    batch_size: int,
) -> list[Cached]:
    """Return the cached value of each image; compute missing ones once, in batches, and cache them."""
    values = {key: value for key, *_ in images if (value := cache.get(key)) is not None}
    missing = list({image[0]: image for image in images if image[0] not in values}.values())
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        for (key, *_), value in zip(batch, compute(batch), strict=True):
            values[key] = value
            cache.put(key, value, value.nbytes)
    return [values[key] for key, *_ in images]
