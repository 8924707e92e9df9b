"""The data of a step: which images and texts it has is a function of seed, stage and step number.

This makes resuming exact. Every rank draws the same step and packs its own share of the images.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import write_jsonl
from ziya_visual.core.pictures import open_picture, picture_size
from ziya_visual.core.records import Example
from ziya_visual.data.chat.chat_format import ChatFormat
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.mixture import Mixture, Part
from ziya_visual.data.packing import IGNORE, Branch, Row, pack, text_batch
from ziya_visual.data.templates import instruct, phrase
from ziya_visual.train.objectives import Batch, CaptionBatch

PREFETCHED_BATCHES = 4


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """All texts of the training data.

    Attributes:
        image_ids: the id of each image; its position is the image's number.
        examples: by image number, the texts of the image.
        langs: the names of the language numbers.
        without_image: texts without an image.
    """

    image_ids: list[str]
    examples: list[list[Example]]
    langs: list[str]
    without_image: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Texts and the pixels of their images, uint8[N, S, S, 3] by image number."""

    texts: TrainingTexts
    pixels: np.ndarray


def read_data(paths: Sequence[Path], *, rejects: Path) -> list[Example]:
    """Read all records of some datasets; write rows that cannot be used to ``rejects`` and warn about them.

    Raises:
        DataError: there is no dataset at a path.
    """
    examples: list[Example] = []
    rejected_rows = []
    for path in paths:
        for record in iter_records(path):
            if isinstance(record, Example):
                examples.append(record)
            else:
                rejected_rows.append({"where": f"{path}/{record.where}", "reason": record.reason})
    if rejected_rows:
        if distributed.rank() == 0:
            write_jsonl(rejects, rejected_rows)
        log.logger.warning(
            "%d rows cannot be used, the first is %s: %s; all of them are listed in %s",
            len(rejected_rows), *rejected_rows[0].values(), rejects,
        )  # fmt: skip
    log.logger.info("%d records", len(examples))
    return examples


def group_by_image(examples: Sequence[Example]) -> TrainingTexts:
    """Group records by image, in the order in which the images first appear.

    Raises:
        DataError: no record has an image.
    """
    grouped: dict[str, list[Example]] = defaultdict(list)
    without_image = []
    for example in examples:
        if example.image is None:
            without_image.append(example)
        elif example.image_id is not None:
            grouped[example.image_id].append(example)
    if not grouped:
        raise DataError(f"none of {len(examples)} records has a picture; training needs at least one")
    langs = sorted({example.lang for group in (*grouped.values(), without_image) for example in group})
    return TrainingTexts(list(grouped), list(grouped.values()), langs, without_image)


def load_images(examples: Sequence[Example], *, image_size: int) -> TrainingData:
    """Group records by image and load the images at the model's size.

    Raises:
        DataError: no record has an image, or an image cannot be read.
    """
    texts = group_by_image(examples)
    size = (image_size, image_size)
    pixels = np.empty((len(texts.examples), *size, 3), np.uint8)
    with log.progress("open pictures", len(texts.examples)) as bar:
        for number, (first, *_) in enumerate(texts.examples):
            image = open_picture(first)
            pixels[number] = np.asarray(
                image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
            )
            bar.advance()
    return TrainingData(texts, pixels)


class Batches(Dataset[Batch]):
    """One rank's batches of a stage, by step."""

    def __init__(
        self,
        texts: TrainingTexts,
        chat: ChatFormat,
        *,
        tasks: dict[str, float],
        images_per_step: int,
        texts_per_image: int,
        num_image_tokens: int,
        seed: int,
        max_caption_tokens: int,
        caption_tokenizer: Any = None,
        texts_per_step: int = 0,
        temperature: float | None = None,
        varied: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Select the texts of the tasks that have a weight.

        Args:
            tasks: the weight of each task in the draw.
            images_per_step: of all ranks together.
            max_caption_tokens: where captions for the Q-Former are cut off.
            caption_tokenizer: of these captions; None for the language model's tokenizer.
            texts_per_step: texts without an image in each step, of all ranks together.
            temperature: draw images by their source (:mod:`~ziya_visual.data.mixture`) if it is given.
            varied: phrase tasks in many ways.

        Raises:
            DataError: no image, or no text without an image where each step needs some, has a text of these
                tasks; or a step has fewer images than ranks.
        """
        self._texts, self._chat, self._seed = texts, chat, seed
        self._tasks, self._texts_per_image = tasks, texts_per_image
        self._num_image_tokens = num_image_tokens
        self._max_caption_tokens, self._caption_tokenizer = max_caption_tokens, caption_tokenizer
        self._shard = functools.partial(distributed.shard, rank=rank, world_size=world_size)
        self._images = [
            number
            for number, examples in enumerate(texts.examples)
            if any(tasks.get(example.task, 0) > 0 for example in examples)
        ]
        self._without_image = [text for text in texts.without_image if tasks.get(text.task, 0) > 0]
        self._texts_per_step, self._varied = texts_per_step, varied
        if not self._images:
            raise DataError(f"no picture has a text of the tasks {sorted(tasks)}")
        if texts_per_step and not self._without_image:
            raise DataError(f"texts_per_step: no text of the tasks {sorted(tasks)} is without a picture")
        self._by_source: dict[str, list[int]] = defaultdict(list)  # by the source of an image's first text
        for number in self._images:
            self._by_source[texts.examples[number][0].source].append(number)
        self._mixture = None if temperature is None else self._create_mixture(temperature)
        self._size = min(images_per_step, len(self._images))
        if self._size < world_size:
            raise DataError(f"a step has {self._size} pictures for {world_size} processes; use fewer")

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps that cover every image; the last may reach into the next epoch."""
        return -(-len(self._images) // self._size)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step; without a mixture every image comes once before any comes again."""
        images = self._draw_images(step)
        rng = np.random.default_rng((self._seed, 1, step))
        texts = [self._draw_texts(number, rng) for number in images]
        captions = {
            lang: self._draw_captions(images, name, rng) for lang, name in enumerate(self._texts.langs)
        }
        own = self._shard(self._size)
        prefix = self._chat.prefix_ids(self._num_image_tokens)
        rows = [Row(prefix, self._branches(texts[place], self._num_image_tokens)) for place in own]
        caption_batches = {
            lang: self._caption_batch(drawn, own, images)
            for lang, drawn in captions.items()
            if len(drawn) > 1
        }
        without_image = self._draw_without_image(step, rng)
        if without_image:
            rows.append(Row(self._chat.prefix_ids(0), self._branches(without_image, 0)))
        packed = pack(rows)
        supervised = int((packed.labels != IGNORE).sum())
        return Batch(np.asarray([images[place] for place in own]), packed, caption_batches, supervised)

    def mixture_report(self, steps: int) -> list[dict[str, Any]]:
        """Return what the first steps drew from each source; an empty list without a mixture."""
        return [] if self._mixture is None else self._mixture.report(steps * self._size)

    def _create_mixture(self, temperature: float) -> Mixture:
        parts = {}
        for source, numbers in self._by_source.items():
            langs = {text.lang for number in numbers for text in self._texts.examples[number]}
            parts[source] = Part(len(numbers), "+".join(sorted(langs)))
        return Mixture(parts, seed=self._seed, temperature=temperature)

    def _draw_images(self, step: int) -> list[int]:
        """Return the numbers of a step's images."""
        if self._mixture is None:
            return [self._images[i] for i in self._in_turn(step, self._size, len(self._images), 0)]
        drawn = self._mixture.draws(step * self._size, self._size)
        return [self._by_source[source][position] for source, position in drawn]

    def _in_turn(self, step: int, size: int, length: int, kind: int) -> list[int]:
        """Return a step's positions among ``length`` items; each comes once before any comes again."""
        drawn = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, length)
            drawn.append(int(_epoch_order(self._seed, kind, epoch, length)[place]))
        return drawn

    def _draw_texts(self, number: int, rng: np.random.Generator) -> list[tuple[Example, int]]:
        """Draw different texts of an image, each with the seed of its phrasing.

        Every language is equally likely, and tasks go by their weights.
        """
        texts = [text for text in self._texts.examples[number] if self._tasks.get(text.task, 0) > 0]
        alike = [sum(t.task == text.task and t.lang == text.lang for t in texts) for text in texts]
        weights = [self._tasks[text.task] / count for text, count in zip(texts, alike, strict=True)]
        count = min(self._texts_per_image, len(texts))
        drawn = rng.choice(len(texts), size=count, replace=False, p=np.asarray(weights) / sum(weights))
        return [(texts[index], int(rng.integers(2**31))) for index in drawn]

    def _draw_without_image(self, step: int, rng: np.random.Generator) -> list[tuple[Example, int]]:
        """Draw the step's texts without an image and return this rank's share, with seeds as above."""
        if not self._texts_per_step:
            return []
        turn = self._in_turn(step, self._texts_per_step, len(self._without_image), 2)
        drawn = [(self._without_image[index], int(rng.integers(2**31))) for index in turn]
        return [drawn[place] for place in self._shard(len(drawn))]

    def _phrase(self, example: Example, seed: int) -> Example:
        """Turn a record into a dialogue; the seed selects the phrasing of its task."""
        if not self._varied:
            return instruct(example, seed=seed, split="train")
        size = None
        if example.task == "grounded" and example.boxes and example.image:
            size = picture_size(
                Path(example.image.path) if example.image.path else example.image.bytes or b""
            )
        return phrase(example, seed=seed, size=size)

    def _branches(self, drawn: list[tuple[Example, int]], num_image_tokens: int) -> list[Branch]:
        branches = []
        for example, seed in drawn:
            text = self._phrase(example, seed)
            encoded = self._chat.branch(text.messages, num_image_tokens=num_image_tokens)
            branches.append(Branch(encoded, self._texts.langs.index(text.lang)))
        return branches

    def _draw_captions(self, images: list[int], lang: str, rng: np.random.Generator) -> list[tuple[int, str]]:
        """Draw (position in the step, caption) for each image that has a caption in a language."""
        drawn = []
        for place, number in enumerate(images):
            captions = [t for t in self._texts.examples[number] if t.task == "caption" and t.lang == lang]
            if captions:
                drawn.append((place, captions[rng.integers(len(captions))].messages[-1].content))
        return drawn

    def _caption_batch(self, drawn: list[tuple[int, str]], own: range, images: list[int]) -> CaptionBatch:
        """Tokenize this rank's captions of all that the step has in a language."""
        first = sum(place < own.start for place, _ in drawn)
        places = [place for place, _ in drawn if place in own]
        captions = [text for place, text in drawn if place in own]
        ids, mask = torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long)
        if captions:
            arrays = text_batch(
                captions, limit=self._max_caption_tokens, chat=self._chat, own=self._caption_tokenizer
            )
            ids, mask = map(torch.from_numpy, arrays)
        rows = torch.tensor([place - own.start for place in places], dtype=torch.long)
        image_ids = torch.tensor([images[place] for place in places], dtype=torch.long)
        return CaptionBatch(ids, mask, rows, image_ids, first, int(mask[:, 1:].sum()))


def prefetch(batches: Dataset[Batch], steps: range) -> Iterable[Batch]:
    """Yield the batches of some steps; a worker process draws them while others are trained on."""
    return DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=PREFETCHED_BATCHES
    )


@functools.lru_cache(4)
def _epoch_order(seed: int, kind: int, epoch: int, length: int) -> np.ndarray:
    """Return the order in which an epoch goes over ``length`` items."""
    return np.random.default_rng((seed, kind, epoch)).permutation(length)
