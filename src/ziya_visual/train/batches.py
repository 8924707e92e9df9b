"""The data of a step: which images and texts it has is a function of seed, stage and step number.

This makes resuming exact. Every rank draws the same step and packs its own share of the images.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
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
    """All texts of the training data."""

    image_ids: list[str]  # the id of each image; its position is the image's number
    examples: list[list[Example]]  # by image number, the texts of the image
    langs: list[str]  # the names of the language numbers
    without_image: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Texts and the pixels of their images, uint8[N, S, S, 3] by image number."""

    texts: TrainingTexts
    pixels: np.ndarray


def read_data(paths: Sequence[Path], *, rejects: Path) -> list[Example]:
    """Read all records of some datasets; write unusable rows to ``rejects`` and warn about them."""
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
    """Group records by image and load the images at the model's size."""
    texts = group_by_image(examples)
    size = (image_size, image_size)
    pixels = np.empty((len(texts.examples), *size, 3), np.uint8)
    with log.progress("open pictures", len(texts.examples)) as bar:
        for number, (first, *_) in enumerate(texts.examples):
            image = open_picture(first)
            if image.size != size:
                image = image.resize(size, Image.Resampling.BICUBIC)
            pixels[number] = np.asarray(image)
            bar.advance()
    return TrainingData(texts, pixels)


@dataclass(eq=False)
class Batches(Dataset[Batch]):
    """One rank's batches of a stage, by step.

    Raises:
        DataError: no image, or no text without an image where each step needs some, has a text of these
            tasks; or a step has fewer images than ranks.
    """

    texts: TrainingTexts
    chat: ChatFormat
    _: KW_ONLY
    tasks: dict[str, float]  # the weight of each task in the draw; only texts of these tasks are used
    images_per_step: int  # of all ranks together
    texts_per_image: int
    num_image_tokens: int
    seed: int
    max_caption_tokens: int  # where captions for the Q-Former are cut off
    caption_tokenizer: Any = None  # of these captions; None for the language model's tokenizer
    texts_per_step: int = 0  # texts without an image in each step, of all ranks together
    temperature: float | None = None  # of the draw of images by their source; None for no such draw
    varied: bool = False  # phrase tasks in many ways
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Select the images and texts of the tasks."""
        self._images = [
            number
            for number, examples in enumerate(self.texts.examples)
            if any(self.tasks.get(example.task, 0) > 0 for example in examples)
        ]
        self._without_image = [text for text in self.texts.without_image if self.tasks.get(text.task, 0) > 0]
        if not self._images:
            raise DataError(f"no picture has a text of the tasks {sorted(self.tasks)}")
        if self.texts_per_step and not self._without_image:
            raise DataError(f"texts_per_step: no text of the tasks {sorted(self.tasks)} is without a picture")
        self._by_source: dict[str, list[int]] = defaultdict(list)  # by the source of an image's first text
        for number in self._images:
            self._by_source[self.texts.examples[number][0].source].append(number)
        self._mixture = None if self.temperature is None else self._create_mixture(self.temperature)
        self._size = min(self.images_per_step, len(self._images))
        if self._size < self.world_size:
            raise DataError(f"a step has {self._size} pictures for {self.world_size} processes; use fewer")

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps that cover every image; the last may reach into the next epoch."""
        return -(-len(self._images) // self._size)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step; without a mixture every image comes once before any comes again."""
        images = self._draw_images(step)
        rng = np.random.default_rng((self.seed, 1, step))
        texts = [self._draw_texts(number, rng) for number in images]
        captions = [self._draw_captions(images, lang, rng) for lang in self.texts.langs]
        own = self._own_share(self._size)
        prefix = self.chat.prefix_ids(self.num_image_tokens)
        rows = [Row(prefix, self._branches(texts[place], self.num_image_tokens)) for place in own]
        caption_batches = {
            lang: self._caption_batch(drawn, own, images)
            for lang, drawn in enumerate(captions)
            if len(drawn) > 1
        }
        without_image = self._draw_without_image(step, rng)
        if without_image:
            rows.append(Row(self.chat.prefix_ids(0), self._branches(without_image, 0)))
        packed = pack(rows)
        supervised = int((packed.labels != IGNORE).sum())
        return Batch(np.asarray([images[place] for place in own]), packed, caption_batches, supervised)

    def mixture_report(self, steps: int) -> list[dict[str, Any]]:
        """Return what the first steps drew from each source; an empty list without a mixture."""
        return [] if self._mixture is None else self._mixture.report(steps * self._size)

    def _own_share(self, length: int) -> range:
        return distributed.shard(length, rank=self.rank, world_size=self.world_size)

    def _create_mixture(self, temperature: float) -> Mixture:
        parts = {}
        for source, numbers in self._by_source.items():
            langs = {text.lang for number in numbers for text in self.texts.examples[number]}
            parts[source] = Part(len(numbers), "+".join(sorted(langs)))
        return Mixture(parts, seed=self.seed, temperature=temperature)

    def _draw_images(self, step: int) -> list[int]:
        """Return the numbers of a step's images."""
        if self._mixture is None:
            return [self._images[i] for i in self._in_turn(step, self._size, len(self._images), 0)]
        drawn = self._mixture.draws(step * self._size, self._size)
        return [self._by_source[source][position] for source, position in drawn]

    def _in_turn(self, step: int, size: int, length: int, kind: int) -> list[int]:
        """Return a step's positions among ``length`` items; each comes once before any comes again."""
        turns = (divmod(position, length) for position in range(step * size, (step + 1) * size))
        return [int(_epoch_order(self.seed, kind, epoch, length)[place]) for epoch, place in turns]

    def _draw_texts(self, number: int, rng: np.random.Generator) -> list[tuple[Example, int]]:
        """Draw different texts of an image, each with the seed of its phrasing.

        Every language is equally likely, and tasks go by their weights.
        """
        texts = [text for text in self.texts.examples[number] if self.tasks.get(text.task, 0) > 0]
        alike = [sum(t.task == text.task and t.lang == text.lang for t in texts) for text in texts]
        weights = [self.tasks[text.task] / count for text, count in zip(texts, alike, strict=True)]
        count = min(self.texts_per_image, len(texts))
        drawn = rng.choice(len(texts), size=count, replace=False, p=np.asarray(weights) / sum(weights))
        return [(texts[index], int(rng.integers(2**31))) for index in drawn]

    def _draw_without_image(self, step: int, rng: np.random.Generator) -> list[tuple[Example, int]]:
        """Draw the step's texts without an image and return this rank's share, with seeds as above."""
        if not self.texts_per_step:
            return []
        turn = self._in_turn(step, self.texts_per_step, len(self._without_image), 2)
        drawn = [(self._without_image[index], int(rng.integers(2**31))) for index in turn]
        return [drawn[place] for place in self._own_share(len(drawn))]

    def _phrase(self, example: Example, seed: int) -> Example:
        """Turn a record into a dialogue; the seed selects the phrasing of its task."""
        if not self.varied:
            return instruct(example, seed=seed, split="train")
        size = None
        if example.task == "grounded" and example.boxes and example.image:
            path, data = example.image.path, example.image.bytes
            size = picture_size(Path(path) if path else data or b"")
        return phrase(example, seed=seed, size=size)

    def _branches(self, drawn: list[tuple[Example, int]], num_image_tokens: int) -> list[Branch]:
        branches = []
        for example, seed in drawn:
            text = self._phrase(example, seed)
            encoded = self.chat.branch(text.messages, num_image_tokens=num_image_tokens)
            branches.append(Branch(encoded, self.texts.langs.index(text.lang)))
        return branches

    def _draw_captions(self, images: list[int], lang: str, rng: np.random.Generator) -> list[tuple[int, str]]:
        """Draw (position in the step, caption) for each image that has a caption in a language."""
        drawn = []
        for place, number in enumerate(images):
            captions = [t for t in self.texts.examples[number] if t.task == "caption" and t.lang == lang]
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
                captions, limit=self.max_caption_tokens, chat=self.chat, own=self.caption_tokenizer
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
