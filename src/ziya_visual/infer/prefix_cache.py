"""What is kept between questions: the keys and values that all dialogues about a picture begin with."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image
from torch import Tensor

from ziya_visual.core.files import hash_bytes

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of one prefix of P positions, float[H, P, E] each, layer by layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """P."""
        return int(self.keys[0].shape[1])

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return sum(states.nbytes for states in (*self.keys, *self.values))


class ByteCache(Generic[Value]):
    """Values by name; the least recently used go once all of them take more than ``limit`` bytes.

    Threads may share it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def get(self, name: str) -> Value | None:
        """A value, which is now the one used last; None where it is not kept."""
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def put(self, name: str, value: Value, nbytes: int) -> None:
        """Keep a value; one that is larger than the limit is not kept."""
        with self._lock:
            self._drop(name)
            self._kept[name] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self.limit:
                self._drop(next(iter(self._kept)))

    def __len__(self) -> int:
        return len(self._kept)

    def _drop(self, name: str) -> None:
        _, nbytes = self._kept.pop(name, (None, 0))
        self.nbytes -= nbytes


Shown = tuple[str, Image.Image, str]  # a name by contents, a picture, and what is asked of it
Made = TypeVar("Made", Tensor, Prefix)


def kept(
    cache: ByteCache[Made],
    shown: Sequence[Shown],
    make: Callable[[Sequence[Shown]], list[Made]],
    *,
    at_once: int,
) -> list[Made]:
    """What the cache has of each; what it has not is made, each once, ``at_once`` together, and put there."""
    found = {name: kept for name, *_ in shown if (kept := cache.get(name)) is not None}
    new = list({one[0]: one for one in shown if one[0] not in found}.values())
    for start in range(0, len(new), at_once):
        some = new[start : start + at_once]
        for (name, *_), made in zip(some, make(some), strict=True):
            found[name] = made
            cache.put(name, made, made.nbytes)
    return [found[name] for name, *_ in shown]


def named(pictures: Sequence[Image.Image], asked: Sequence[str]) -> list[Shown]:
    """Pictures and what is asked of them, each pair under a name of its contents."""
    return [
        (hash_bytes(picture.tobytes() + f"{picture.size}{text}".encode()), picture, text)
        for picture, text in zip(pictures, asked, strict=True)
    ]
