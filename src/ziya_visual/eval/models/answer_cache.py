"""What a model answered and computed so far, so that a killed evaluation continues where it stopped.

Every batch of answers is appended to a file and synced before the next begins. The key of an answer hashes
the model, the image and the whole prompt. Under ``torchrun`` the ranks share the work of every call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from ziya_visual.core import distributed
from ziya_visual.core.files import atomic_path, hash_bytes, hash_json
from ziya_visual.core.records import Example

Floats = npt.NDArray[np.float32]


class Answerer(Protocol):
    """A model that answers questions about images."""

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Return greedy answers to the user turns of ``examples``; ``images`` has their ``image_id``."""


class Ranker(Answerer, Protocol):
    """A model that also retrieves."""

    def embed_images(self, images: Sequence[Image]) -> Floats:
        """Return image embeddings float32[N, Q, D]."""

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return caption embeddings float32[M, D]."""

    def match(self, images: Mapping[str, Image], asked: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        """Return matching logits, float32[M] for the M texts listed with each image id."""


class CachedAnswerer:
    """A model together with the answers it has given; no question is asked twice."""

    def __init__(self, model: Answerer, *, path: Path, identity: str) -> None:
        """Read the answers of earlier runs from ``path``, which only rank 0 reads and writes.

        ``identity`` is part of the keys, so that no other model's answers are used. Call the methods on every
        rank with the same examples.
        """
        self._model, self._path, self._identity = model, path, identity
        self._answers = distributed.broadcast(_read(path) if distributed.rank() == 0 else {})

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Return the answer to every example, from the file or from the model."""
        assert images is not None, "an evaluation has its images by image_id"
        keys = self._keys(examples, max_new_tokens, images)
        new = {key: e for key, e in zip(keys, examples, strict=True) if key not in self._answers}
        keys_by_image: dict[str, list[str]] = {}
        for key, example in new.items():
            keys_by_image.setdefault(str(example.image_id), []).append(key)

        def ask(groups: Sequence[list[str]]) -> list[list[str]]:
            batch = [new[key] for group in groups for key in group]
            texts = iter(self._model.answer(batch, max_new_tokens=max_new_tokens, images=images))
            return [[next(texts) for _ in group] for group in groups]

        texts = distributed.map_over_ranks(list(keys_by_image.values()), ask)
        answers = dict(zip(chain(*keys_by_image.values()), chain(*texts), strict=True))
        if distributed.rank() == 0 and answers:
            _append(self._path, answers)
        self._answers.update(answers)
        return [self._answers[key] for key in keys]

    def _keys(self, examples: Sequence[Example], limit: int, images: Mapping[str, Image]) -> list[str]:
        ids = list(dict.fromkeys(str(example.image_id) for example in examples))
        hashes = distributed.map_over_ranks(ids, lambda part: [image_hash(images[name]) for name in part])
        hash_of = dict(zip(ids, hashes, strict=True))
        keys = []
        for example in examples:
            turns = [[turn.role, turn.content] for turn in example.prompt_turns]
            keys.append(hash_json([self._identity, hash_of[str(example.image_id)], turns, limit]))
        return keys


class CachedRanker(CachedAnswerer):
    """A cached model that also retrieves; the ranks share embeddings and logits."""

    def __init__(self, model: Ranker, *, path: Path, identity: str) -> None:
        super().__init__(model, path=path, identity=identity)
        self._ranker = model

    def embed_images(self, images: Sequence[Image]) -> Floats:
        """Return image embeddings float32[N, Q, D]."""
        embeds = distributed.map_over_ranks(images, lambda part: list(self._ranker.embed_images(part)))
        return np.stack(embeds)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return caption embeddings float32[M, D]."""
        return np.stack(distributed.map_over_ranks(texts, lambda part: list(self._ranker.embed_texts(part))))

    def match(self, images: Mapping[str, Image], asked: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        """Return matching logits, float32[M] for the M texts listed with each image id."""
        return distributed.map_over_ranks(asked, lambda part: self._ranker.match(images, part))

    def cached_block(self, folder: Path, key: Any, compute: Callable[[], Floats]) -> Floats:
        """Return a block of embeddings or logits, from its file in ``folder`` if there is one.

        ``key`` is the title and the ids or texts of the block. Image content is not part of it, so empty the
        folder when images change. ``compute`` is called on all ranks.
        """
        path = folder / f"{hash_json([self._identity, *key])[:40]}.npy"
        first = distributed.rank() == 0
        cached: Floats | None = distributed.broadcast(np.load(path) if first and path.is_file() else None)
        if cached is not None:
            return cached
        block = compute()
        if first:
            with atomic_path(path) as temporary:
                np.save(temporary, block)
        return block


def image_hash(image: Image) -> str:
    """Return a hash of an image's size and pixels."""
    return hash_bytes(f"{image.size}".encode() + image.tobytes())


def _read(path: Path) -> dict[str, str]:
    """Return the answers of earlier runs, and cut off a last line that a kill left incomplete."""
    answers: dict[str, str] = {}
    if not path.is_file():
        return answers
    with path.open("r+b") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            key, text = json.loads(line)
            answers[key] = text
            end += len(line)
        file.truncate(end)
    return answers


def _append(path: Path, answers: Mapping[str, str]) -> None:
    """Append answers and return once they are on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for pair in answers.items():
            file.write(json.dumps(pair, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
