"""What is asked: named splits of questions, captions and retrieval pools, in one or more languages.

The quickstart builds its suite in code; ``eval --suite FILE`` reads JSONL of records (``core.records``), in
which ``meta.split`` names the split (``new`` if absent) and the ``answers`` of a caption are its references.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_examples
from ziya_visual.core.records import Example

if TYPE_CHECKING:
    from PIL.Image import Image

POOL = 100
_GREY = (127, 127, 127)


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures and captions ranked against each other: caption ``i`` belongs to picture ``i``, all differ."""

    image_ids: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What is asked of one split in one language."""

    vqa: Sequence[Example] = ()
    caption: Sequence[Example] = ()
    pools: Sequence[Pool] = ()


@dataclass(frozen=True)
class Suite:
    """Sections by (split, language), and the pictures that they are about.

    Attributes:
        name: for file names and the card.
        sections: (split, lang) -> what is asked.
        images: image_id -> picture. Every example's ``image_id`` is in it.
        keywords: keywords of a text in a language, for keyword F1; without it that is not measured.
    """

    name: str
    sections: Mapping[tuple[str, str], Section]
    images: Mapping[str, Image]
    keywords: Callable[[str, str], Sequence[str]] | None = field(default=None, compare=False)

    def blank(self) -> Suite:
        """The same questions about uniform grey pictures: what a model knows without looking."""
        return dataclasses.replace(self, images=_Blank(self.images))


class _Blank(Mapping[str, "Image"]):
    """Grey pictures of the same sizes, made when asked for."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = images

    def __getitem__(self, key: str) -> Image:
        from PIL import Image as Pillow

        return Pillow.new("RGB", self._images[key].size, _GREY)

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


class Files(Mapping[str, "Image"]):
    """Pictures opened from their files when asked for."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, key: str) -> Image:
        from PIL import Image as Pillow
        from PIL import ImageOps

        path = self._paths[key]
        try:
            with Pillow.open(path) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path}: is no readable picture ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def make_pools(examples: Iterable[Example], *, size: int = POOL) -> list[Pool]:
    """Retrieval pools from caption examples, in order: each picture once, captions pairwise different.

    The caption is the first reference. What does not fill a pool is left out.
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
    """A suite from a JSONL file of VQA and caption records whose pictures are files.

    Raises:
        DataError: a record without a picture file, of another task, or without answers.
    """
    groups: dict[tuple[str, str], dict[str, list[Example]]] = {}
    paths: dict[str, Path] = {}
    for example in read_examples(path):
        if example.task not in ("vqa", "caption"):
            raise DataError(
                f"{path}: record {example.id!r} has task {example.task!r}; a suite asks vqa and caption"
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
    return Suite(path.stem, sections, Files(paths))
