"""Which pictures and texts a step sees: a function of seed, stage and step, so that resuming is exact."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ziya_visual.core.distributed import shard
from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.chat.chat_format import ChatFormat
from ziya_visual.data.mixture import Mixture, Part
from ziya_visual.data.packing import IGNORE, Branch, PackedBatch, Row, pack, some_rows
from ziya_visual.data.templates import instruct, phrase
from ziya_visual.data.text_batch import text_batch
from ziya_visual.train.objectives import Pairs


@dataclass(frozen=True, slots=True)
class Album:
    """All texts of a data set: ``examples[i]`` are of picture ``i`` of the pixel store, ``texts`` of none."""

    image_ids: list[str]
    examples: list[list[Example]]
    langs: list[str]
    texts: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """A step or a share of one: rows of the pixel store, packed texts, caption pairs by language number.

    The rows of ``texts`` are the pictures', then one of texts without a picture, if there are any. ``learnt``
    counts the tokens that the whole step learns: their losses' sum is divided by it.
    """

    pictures: np.ndarray
    texts: PackedBatch | None
    pairs: dict[int, Pairs]
    learnt: int

    def placed(self, device: torch.device, *, learnt: int | None = None) -> Batch:
        """With its pairs on a device, and the count of what all processes learn together."""
        pairs = {lang: found.to(device) for lang, found in self.pairs.items()}
        return replace(self, pairs=pairs, learnt=self.learnt if learnt is None else learnt)

    def shares(self, at_once: int | None, *, align: bool) -> list[Batch]:
        """The step in shares whose gradients add up to its own.

        What compares pictures with each other, if ``align``, is one share. The texts go through the language
        model, which takes the most memory, ``at_once`` pictures at a time; those without one come last.
        """
        if at_once is None or self.texts is None:
            return [self]
        found = [replace(self, texts=None)] if align and self.pairs else []
        rows, pictures = len(self.texts.lengths), len(self.pictures)
        for start in range(0, rows, at_once):
            end = min(start + at_once, rows)
            texts = some_rows(self.texts, start, end)
            found.append(Batch(self.pictures[start : min(end, pictures)], texts, {}, self.learnt))
        return found


def album(examples: Sequence[Example]) -> Album:
    """Group records by picture, in the order of first appearance.

    Raises:
        DataError: there is no record with a picture.
    """
    grouped: dict[str, list[Example]] = defaultdict(list)
    texts = []
    for example in examples:
        if example.image is None:
            texts.append(example)
        elif example.image_id is not None:
            grouped[example.image_id].append(example)
    if not grouped:
        raise DataError(f"none of {len(examples)} records has a picture; training needs at least one")
    langs = sorted({example.lang for some in (*grouped.values(), texts) for example in some})
    return Album(list(grouped), list(grouped.values()), langs, texts)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A text of a step, and the seed of the phrasing that it is put in."""

    text: Example
    seed: int


class Batches(Dataset[Batch]):
    """The batches of one stage by step; of each step the share of one process."""

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
        texts_per_step: int = 0,
        temperature: float | None = None,
        varied: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Keep the texts of the tasks that have a weight.

        Caption pairs are read by ``pair_tokenizer``, or by the language model's tokenizer without one. With
        a ``temperature`` pictures are drawn by their source (:mod:`~ziya_visual.data.mixture`); ``varied``
        puts tasks in many phrasings.

        Raises:
            DataError: no picture has a text of these tasks; or no text is without one, of those that each
                step shall have; or there are fewer pictures in a step than processes.
        """
        self._album, self._chat, self._seed = album, chat, seed
        self._tasks, self._texts_per_image = tasks, texts_per_image
        self._num_image_tokens = num_image_tokens
        self._prefix = chat.prefix_ids(num_image_tokens)
        self._max_pair_tokens, self._pair_tokenizer = max_pair_tokens, pair_tokenizer
        self._rank, self._processes = rank, processes
        self._usable = [
            row
            for row, texts in enumerate(album.examples)
            if any(tasks.get(text.task, 0) > 0 for text in texts)
        ]
        self._texts = [text for text in album.texts if tasks.get(text.task, 0) > 0]
        self._texts_per_step = texts_per_step
        if not self._usable:
            raise DataError(f"no picture has a text of the tasks {sorted(tasks)}")
        if texts_per_step and not self._texts:
            raise DataError(f"texts_per_step: no text of the tasks {sorted(tasks)} is without a picture")
        self._varied = varied
        self._sources = self._by_source()
        self.mixture = None if temperature is None else self._mixed(temperature)
        self._size = min(images_per_step, len(self._usable))
        if self._size < processes:
            raise DataError(f"{processes} processes share {self._size} pictures a step; use fewer")

    @property
    def epoch(self) -> int:
        """In how many steps every picture is seen, the last of them also with pictures of the next epoch."""
        return -(-len(self._usable) // self._size)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; without a mixture every picture is seen once before any is seen again."""
        rows = self._pictures(step)
        rng = np.random.default_rng((self._seed, 1, step))
        drawn = [self._draw(row, rng) for row in rows]
        captions = {number: self._captions(rows, lang, rng) for number, lang in enumerate(self._album.langs)}
        own = shard(self._size, rank=self._rank, world_size=self._processes)
        packed = [Row(self._prefix, self._branches(drawn[place])) for place in own]
        pairs = {
            number: self._pairs(found, own, rows) for number, found in captions.items() if len(found) > 1
        }
        alone = self._alone(step, rng)
        if alone:
            packed.append(Row(self._chat.prefix_ids(0), self._branches(alone, num_image_tokens=0)))
        texts = pack(packed)
        learnt = int((texts.labels != IGNORE).sum())
        return Batch(np.asarray([rows[place] for place in own]), texts, pairs, learnt)

    def seen(self, steps: int) -> list[dict[str, Any]]:
        """What so many steps drew of each source; nothing without a mixture."""
        return [] if self.mixture is None else self.mixture.report(steps * self._size)

    def _by_source(self) -> dict[str, list[int]]:
        """Pictures by the source of their first text."""
        found: dict[str, list[int]] = defaultdict(list)
        for row in self._usable:
            found[self._album.examples[row][0].source].append(row)
        return found

    def _mixed(self, temperature: float) -> Mixture:
        parts = {}
        for source, rows in self._sources.items():
            langs = {text.lang for row in rows for text in self._album.examples[row]}
            parts[source] = Part(len(rows), "+".join(sorted(langs)))
        return Mixture(parts, seed=self._seed, temperature=temperature)

    def _pictures(self, step: int) -> list[int]:
        """Those of a step."""
        if self.mixture is None:
            return [self._usable[i] for i in self._in_turn(step, self._size, len(self._usable), 0)]
        drawn = self.mixture.draws(step * self._size, self._size)
        return [self._sources[source][record] for source, record in drawn]

    def _in_turn(self, step: int, size: int, things: int, kind: int) -> list[int]:
        """Which of so many things a step has, each once before any comes again."""
        found = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, things)
            found.append(int(_order(self._seed, kind, epoch, things)[place]))
        return found

    def _draw(self, row: int, rng: np.random.Generator) -> list[Drawn]:
        """Texts of one picture, each language as likely as another and tasks by their weights, none twice."""
        texts = [text for text in self._album.examples[row] if self._tasks.get(text.task, 0) > 0]
        weights = [self._tasks[text.task] / self._count(texts, text) for text in texts]
        count = min(self._texts_per_image, len(texts))
        chosen = rng.choice(len(texts), size=count, replace=False, p=np.asarray(weights) / sum(weights))
        return [Drawn(texts[index], int(rng.integers(2**31))) for index in chosen]

    @staticmethod
    def _count(texts: list[Example], like: Example) -> int:
        return sum(text.task == like.task and text.lang == like.lang for text in texts)

    def _alone(self, step: int, rng: np.random.Generator) -> list[Drawn]:
        """This process's share of the step's texts without a picture."""
        if not self._texts_per_step:
            return []
        turn = self._in_turn(step, self._texts_per_step, len(self._texts), 2)
        drawn = [Drawn(self._texts[index], int(rng.integers(2**31))) for index in turn]
        own = shard(len(drawn), rank=self._rank, world_size=self._processes)
        return drawn[own.start : own.stop]

    def _branches(self, drawn: list[Drawn], *, num_image_tokens: int | None = None) -> list[Branch]:
        count = self._num_image_tokens if num_image_tokens is None else num_image_tokens
        branches = []
        for one in drawn:
            told = self._told(one)
            encoded = self._chat.branch(told.messages, num_image_tokens=count)
            branches.append(Branch(encoded, self._album.langs.index(told.lang)))
        return branches

    def _told(self, one: Drawn) -> Example:
        if not self._varied:
            return instruct(one.text, seed=one.seed, split="train")
        boxed = one.text.task == "grounded" and one.text.boxes and one.text.image
        return phrase(one.text, seed=one.seed, size=_size_of(one.text) if boxed else None)

    def _captions(self, rows: list[int], lang: str, rng: np.random.Generator) -> list[tuple[int, str]]:
        """(place in the step, caption) of the pictures that have one in this language."""
        found = []
        for place, row in enumerate(rows):
            said = [t for t in self._album.examples[row] if t.task == "caption" and t.lang == lang]
            if said:
                found.append((place, said[rng.integers(len(said))].messages[-1].content))
        return found

    def _pairs(self, found: list[tuple[int, str]], own: range, rows: list[int]) -> Pairs:
        """The pairs of this process's pictures, of all that the step has in a language."""
        first = sum(place < own.start for place, _ in found)
        mine = [(place, text) for place, text in found if place in own]
        ids, mask = self._read([text for _, text in mine])
        places = torch.tensor([place - own.start for place, _ in mine], dtype=torch.long)
        pictures = torch.tensor([rows[place] for place, _ in mine], dtype=torch.long)
        return Pairs(ids, mask, places, pictures, first, int(mask[:, 1:].sum()))

    def _read(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        if not texts:
            return torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long)
        ids, mask = text_batch(texts, limit=self._max_pair_tokens, chat=self._chat, own=self._pair_tokenizer)
        return torch.from_numpy(ids), torch.from_numpy(mask)


def _size_of(example: Example) -> tuple[int, int]:
    """Width and height of a record's picture, in pixels."""
    from ziya_visual.core.pictures import picture_size  # where it is needed alone: Pillow

    assert example.image is not None
    return picture_size(Path(example.image.path) if example.image.path else example.image.bytes or b"")


@functools.lru_cache(4)
def _order(seed: int, kind: int, epoch: int, things: int) -> np.ndarray:
    """In which order an epoch goes over them."""
    return np.random.default_rng((seed, kind, epoch)).permutation(things)
