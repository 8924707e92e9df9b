"""Which pictures and texts a step sees: a function of seed, stage and step, so that resuming is exact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.chat_format import ChatFormat
from ziya_visual.data.packing import IGNORE, Branch, PackedBatch, Row, pack, some_rows
from ziya_visual.data.templates import instruct
from ziya_visual.data.text_batch import text_batch
from ziya_visual.train.objectives import Pairs


@dataclass(frozen=True, slots=True)
class Album:
    """All texts of a data set by picture: ``examples[i]`` belong to picture ``i`` of the pixel store."""

    image_ids: list[str]
    examples: list[list[Example]]
    langs: list[str]


@dataclass(frozen=True, slots=True)
class Batch:
    """A step or a share of one: rows of the pixel store, packed texts, caption pairs by language number.

    ``learnt`` counts the tokens that the whole step learns: their losses' sum is divided by it.
    """

    pictures: np.ndarray
    texts: PackedBatch | None
    pairs: dict[int, Pairs]
    learnt: int

    def shares(self, at_once: int | None, *, align: bool) -> list[Batch]:
        """The step in shares whose gradients add up to its own.

        What compares pictures with each other, if ``align``, is one share. The texts go through the language
        model, which takes the most memory, ``at_once`` pictures at a time.
        """
        if at_once is None or self.texts is None:
            return [self]
        found = [replace(self, texts=None)] if align and self.pairs else []
        for start in range(0, len(self.pictures), at_once):
            end = min(start + at_once, len(self.pictures))
            found.append(Batch(self.pictures[start:end], some_rows(self.texts, start, end), {}, self.learnt))
        return found


def album(examples: Sequence[Example]) -> Album:
    """Group records by picture, in the order of first appearance.

    Raises:
        DataError: there is no record with a picture.
    """
    grouped: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.image is not None and example.image_id is not None:
            grouped[example.image_id].append(example)
    if not grouped:
        raise DataError(f"none of {len(examples)} records has a picture; training needs at least one")
    langs = sorted({example.lang for texts in grouped.values() for example in texts})
    return Album(list(grouped), list(grouped.values()), langs)


class Batches(Dataset[Batch]):
    """The batches of one stage by step."""

    def __init__(
        self,
        album: Album,
        chat: ChatFormat,
        *,
        tasks: dict[str, float],
        images_per_step: int,
        texts_per_image: int,
        num_image_tokens: int,
        seed: int,
        max_pair_tokens: int,
        pair_tokenizer: Any = None,
    ) -> None:
        """Keep the texts of the tasks that have a weight.

        Caption pairs are read by ``pair_tokenizer``, or by the language model's tokenizer without one.

        Raises:
            DataError: no picture has a text of these tasks.
        """
        self._album, self._chat, self._seed = album, chat, seed
        self._tasks, self._texts_per_image = tasks, texts_per_image
        self._num_image_tokens = num_image_tokens
        self._prefix = chat.prefix_ids(num_image_tokens)
        self._max_pair_tokens, self._pair_tokenizer = max_pair_tokens, pair_tokenizer
        self._usable = [
            row
            for row, texts in enumerate(album.examples)
            if any(tasks.get(text.task, 0) > 0 for text in texts)
        ]
        if not self._usable:
            raise DataError(f"no picture has a text of the tasks {sorted(tasks)}")
        self._size = min(images_per_step, len(self._usable))

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step. Every picture is seen once before any is seen again."""
        rows = [self._row(step * self._size + i) for i in range(self._size)]
        rng = np.random.default_rng((self._seed, 1, step))
        packed = [Row(self._prefix, self._branches(row, rng)) for row in rows]
        pairs = {}
        for number, lang in enumerate(self._album.langs):
            found = self._captions(rows, lang, rng)
            if len(found) > 1:
                pairs[number] = self._pairs(found)
        texts = pack(packed)
        return Batch(np.asarray(rows), texts, pairs, int((texts.labels != IGNORE).sum()))

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self._usable))
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._usable))
        return self._usable[order[place]]

    def _branches(self, row: int, rng: np.random.Generator) -> list[Branch]:
        """Texts of one picture, each language as likely as another and tasks by their weights, none twice."""
        texts = [text for text in self._album.examples[row] if self._tasks.get(text.task, 0) > 0]
        share = [self._tasks[text.task] / self._count(texts, text) for text in texts]
        count = min(self._texts_per_image, len(texts))
        chosen = rng.choice(len(texts), size=count, replace=False, p=np.asarray(share) / sum(share))
        branches = []
        for index in chosen:
            told = instruct(texts[index], seed=int(rng.integers(2**31)), split="train")
            encoded = self._chat.branch(told.messages, num_image_tokens=self._num_image_tokens)
            branches.append(Branch(encoded, self._album.langs.index(told.lang)))
        return branches

    @staticmethod
    def _count(texts: list[Example], like: Example) -> int:
        return sum(text.task == like.task and text.lang == like.lang for text in texts)

    def _captions(self, rows: list[int], lang: str, rng: np.random.Generator) -> list[tuple[int, str]]:
        """(place in the batch, caption) of the pictures that have one in this language."""
        found = []
        for place, row in enumerate(rows):
            said = [t for t in self._album.examples[row] if t.task == "caption" and t.lang == lang]
            if said:
                found.append((place, said[rng.integers(len(said))].messages[-1].content))
        return found

    def _pairs(self, found: list[tuple[int, str]]) -> Pairs:
        texts = [text for _, text in found]
        limit = self._max_pair_tokens
        ids, mask = map(
            torch.from_numpy, text_batch(texts, limit=limit, chat=self._chat, own=self._pair_tokenizer)
        )
        return Pairs(ids, mask, torch.tensor([place for place, _ in found]))
