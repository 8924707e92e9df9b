"""What a model is asked: named splits of questions, captions and retrieval pools, in one or more languages.

Start with :class:`Suite`, which :func:`build_scenes` draws and :func:`load_suite` reads from JSONL, and with
``named.py`` for published data sets. It may import ``core``, ``data``, ``scenes`` and ``eval/rows``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image, fromarray
from PIL.Image import new as new_image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_examples
from ziya_visual.core.pictures import load_image
from ziya_visual.core.records import Example
from ziya_visual.data.templates import instruct
from ziya_visual.scenes import dataset
from ziya_visual.scenes.drawing import render
from ziya_visual.scenes.parsing import keywords

POOL = 100
_GREY = (127, 127, 127)


class Pool(NamedTuple):
    """Images and captions to rank against each other: caption ``i`` belongs to image ``i``, all differ."""

    image_ids: tuple[str, ...]
    captions: tuple[str, ...]


class Section(NamedTuple):
    """The questions, captions and pools of one split in one language."""

    vqa: Sequence[Example] = ()
    caption: Sequence[Example] = ()
    pools: Sequence[Pool] = ()


@dataclass(frozen=True)
class Suite:
    """Sections by (split, language), and their images.

    Attributes:
        sections: (split, lang) -> section.
        images: image_id -> image. It has the ``image_id`` of every example.
        keywords: returns the keywords of a text in a language; without it there is no keyword F1.
    """

    name: str
    sections: Mapping[tuple[str, str], Section]
    images: Mapping[str, Image]
    keywords: Callable[[str, str], Sequence[str]] | None = field(default=None, compare=False)

    def blank(self) -> Suite:
        """Return the same questions about uniform grey images: what a model knows without looking."""
        return dataclasses.replace(self, images=LazyImages(self.images, self._grey))

    def _grey(self, name: str) -> Image:
        return new_image("RGB", self.images[name].size, _GREY)


class LazyImages(Mapping[str, Image]):
    """Images that are opened or made when they are looked up."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Image]) -> None:
        self._names = dict.fromkeys(names)
        self._make = make

    def __getitem__(self, name: str) -> Image:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def image_files(paths: Mapping[str, Path]) -> LazyImages:
    """Return the images of files by name."""
    return LazyImages(paths, lambda name: load_image(paths[name]))


def make_pools(examples: Iterable[Example], *, size: int = POOL) -> list[Pool]:
    """Return retrieval pools from caption examples, in order: each image once, captions pairwise different.

    The caption is the first reference. Examples that do not fill a pool are left out.
    """
    pools: list[Pool] = []
    open_pools: list[dict[str, str]] = []  # caption -> image of pools not yet full
    seen: set[str] = set()
    for example in examples:
        if example.image_id is None or not example.answers or example.image_id in seen:
            continue
        seen.add(example.image_id)
        caption = example.answers[0]
        pool = next((pool for pool in open_pools if caption not in pool), None)
        if pool is None:
            pool = {}
            open_pools.append(pool)
        pool[caption] = example.image_id
        if len(pool) == size:
            open_pools.remove(pool)
            pools.append(Pool(tuple(pool.values()), tuple(pool)))
    return pools


def load_suite(path: Path) -> Suite:
    """Return the suite in a JSONL file of VQA and caption records (``core.records``) with images by path.

    ``meta.split`` names the split (default ``new``); the ``answers`` of a caption are its references.
    """
    groups: dict[tuple[str, str], dict[str, list[Example]]] = {}
    paths: dict[str, Path] = {}
    for example in read_examples(path):
        if example.task not in ("vqa", "caption"):
            raise DataError(
                f"{path}: record {example.id!r} has task {example.task!r}; a suite takes vqa and caption"
            )
        if example.image is None or example.image.path is None or not example.answers:
            raise DataError(f"{path}: record {example.id!r} needs a picture file and at least one answer")
        image_id = example.image_id or example.image.path
        paths[image_id] = path.parent / example.image.path
        key = example.meta.get("split", "new"), example.lang
        tasks = groups.setdefault(key, {"vqa": [], "caption": []})
        tasks[example.task].append(dataclasses.replace(example, image_id=image_id))
    sections = {
        key: Section(tasks["vqa"], tasks["caption"], make_pools(tasks["caption"]))
        for key, tasks in groups.items()
    }
    return Suite(path.stem, sections, image_files(paths))


def build_scenes(seed: int, langs: Sequence[str] = dataset.LANGS) -> Suite:
    """Return the suite ``scenes``: new scenes and held-out pairs, in phrasings that were never trained on."""
    sections: dict[tuple[str, str], Section] = {}
    images: dict[str, Image] = {}
    for split, held_out in (("new", False), ("unseen", True)):
        drawn = dataset.evaluation(seed=seed, held_out=held_out, langs=langs)
        images |= {name: fromarray(render(scene)) for name, scene in drawn.scenes.items()}
        for lang in langs:
            captions = drawn.ranked[lang]
            sections[split, lang] = Section(
                vqa=[instruct(example, seed=seed, split="eval") for example in drawn.vqa[lang]],
                caption=[instruct(example, seed=seed, split="eval") for example in drawn.caption[lang]],
                pools=[Pool(tuple(pool), tuple(captions[name] for name in pool)) for pool in drawn.pools],
            )
    return Suite(name="scenes", sections=sections, images=images, keywords=keywords)
