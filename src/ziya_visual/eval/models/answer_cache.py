"""A model while it is being evaluated: what it answered is kept, and its work is shared over processes.

Every batch of answers is appended to a file and synced before the next begins; an answer's key is the hash of
the model, the picture and all that was asked, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ziya_visual.core import distributed
from ziya_visual.core.files import hash_bytes, hash_json
from ziya_visual.core.records import Example

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = npt.NDArray[np.float32]


class Answerer(Protocol):
    """What an evaluation needs of a model."""

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Greedy answers to the user turns of ``examples``; pictures are ``images[example.image_id]``."""


class Ranker(Answerer, Protocol):
    """What retrieval needs of a model besides."""

    def embed_images(self, images: Sequence[Image]) -> Floats:
        """Embeddings float32[N, Q, D] of pictures."""

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embeddings float32[M, D] of captions."""

    def match(self, images: Mapping[str, Image], asked: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        """Matching logits, float32[M] for each picture's (by its id) own M texts."""


class Kept:
    """A model with the answers that it has given so far; it is asked nothing twice.

    Attributes:
        again: how many answers were taken from the file.
    """

    def __init__(self, model: Answerer, *, path: Path, identity: str) -> None:
        """Read the file.

        Args:
            model: answers what is new. The ranks share the images of each batch: call it on every rank with
                the same examples.
            path: the file of answers, JSON lines of key and text; only the first process uses it.
            identity: of the model, a part of the keys: another model's answers are never taken for its own.
        """
        self._model, self._path = model, path
        self.identity = identity
        self._known = distributed.broadcast(_read(path) if distributed.rank() == 0 else {})
        self.again = 0

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Every example's answer, from the file or from the model."""
        assert images is not None, "an evaluation has its pictures by image_id"
        keys = self._keys(examples, max_new_tokens, images)
        fresh = {k: e for k, e in zip(keys, examples, strict=True) if k not in self._known}
        self.again += len(examples) - len(fresh)
        groups: dict[str, list[str]] = {}  # of a picture's keys
        for key, example in fresh.items():
            groups.setdefault(str(example.image_id), []).append(key)

        def work(some: Sequence[list[str]]) -> list[list[str]]:
            asked = [fresh[key] for group in some for key in group]
            said = iter(self._model.answer(asked, max_new_tokens=max_new_tokens, images=images))
            return [[next(said) for _ in group] for group in some]

        said = distributed.map_over_ranks(list(groups.values()), work)
        found = dict(zip(chain(*groups.values()), chain(*said), strict=True))
        if distributed.rank() == 0 and found:
            _append(self._path, found)
        self._known.update(found)
        return [self._known[key] for key in keys]

    def _keys(self, examples: Sequence[Example], limit: int, images: Mapping[str, Image]) -> list[str]:
        names = list(dict.fromkeys(str(example.image_id) for example in examples))
        seen = distributed.map_over_ranks(names, lambda some: [_fingerprint(images[name]) for name in some])
        pictures = dict(zip(names, seen, strict=True))
        return [
            hash_json(
                [
                    self.identity,
                    pictures[str(example.image_id)],
                    [[turn.role, turn.content] for turn in example.prompt_turns],
                    limit,
                ]
            )
            for example in examples
        ]


class KeptRanker(Kept):
    """The same of a model that retrieves: its embeddings and logits are shared over processes."""

    def __init__(self, model: Ranker, *, path: Path, identity: str) -> None:
        super().__init__(model, path=path, identity=identity)
        self._ranker = model

    def embed_images(self, images: Sequence[Image]) -> Floats:
        """Embeddings float32[N, Q, D] of pictures."""
        return np.stack(
            distributed.map_over_ranks(images, lambda some: list(self._ranker.embed_images(some)))
        )

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embeddings float32[M, D] of captions."""
        return np.stack(distributed.map_over_ranks(texts, lambda some: list(self._ranker.embed_texts(some))))

    def match(self, images: Mapping[str, Image], asked: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        """Matching logits, float32[M] for each picture's (by its id) own M texts."""
        return distributed.map_over_ranks(asked, lambda some: self._ranker.match(images, some))


def _fingerprint(picture: Image) -> str:
    return hash_bytes(f"{picture.size}".encode() + picture.tobytes())


def _read(path: Path) -> dict[str, str]:
    """The answers of earlier runs; what a kill left of a last line is cut off."""
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    with path.open("r+b") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            key, text = json.loads(line)
            found[key] = text
            end += len(line)
        file.truncate(end)
    return found


def _append(path: Path, answers: Mapping[str, str]) -> None:
    """Add answers and return when they are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for pair in answers.items():
            file.write(json.dumps(pair, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
