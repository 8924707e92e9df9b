"""``data split``: a dataset in two, all texts of a picture, its copies and near copies on one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import atomic_dir, write_json, write_jsonl
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import iter_records, write_dataset
from ziya_visual.data.fingerprints import Fingerprint
from ziya_visual.data.formats import Reject
from ziya_visual.data.leaks import KnownPictures, file_of, is_drawn, prints, question_hash
from ziya_visual.data.tools.check import form_of
from ziya_visual.data.tools.manifest import manifest, refuse_foreign

SIDES = ("train", "heldout")


class Groups:
    """Things that belong together, pair by pair (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name that stands for the group."""
        while (above := self._above.get(name, name)) != name:
            self._above[name] = self._above.get(above, above)
            name = above
        return name

    def join(self, one: str, other: str) -> None:
        """Make their groups one. The lesser name stands for it, whatever the order of the pairs."""
        first, second = sorted((self.of(one), self.of(other)))
        self._above[second] = first


def split_dataset(path: Path, *, out: Path, heldout: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """Write ``out/train`` and ``out/heldout``, each a dataset with a manifest, and ``out/rejects.jsonl``.

    Args:
        path: a dataset, see :func:`store.iter_records`; rows that are no records go to the rejects.
        heldout: the part of the pictures (or of dialogues without one) that is held out.
        seed: of the draw, which is by the hash of the pixels: a picture stays on its side wherever it lies
            and whatever other pictures there are, but for copies of it.

    Returns:
        The manifests by side.

    Raises:
        ConfigError: ``out`` holds something else.
        DataError: a picture cannot be read, or a side would be empty.
    """
    refuse_foreign(out, path)
    groups = _groups(path)

    def side_of(example: Example) -> str:
        digest = hashlib.sha256(f"{seed}:{groups.of(_key(example))}".encode()).digest()
        return SIDES[int.from_bytes(digest[:8], "big") < heldout * 2**64]

    with atomic_dir(out) as aside:
        manifests = {}
        for side in SIDES:
            counts: Counter[str] = Counter()
            records = write_dataset(aside / side, _of_side(path, side, side_of, counts), form_of(path))
            if not records:
                raise DataError(f"{path}: no record for {side}; heldout is {heldout:g}, try another seed")
            made_by = f"data split {path} --heldout {heldout:g} --seed {seed}"
            more: dict[str, Any] = {"by_task_and_lang": counts, "made_by": made_by, "inputs": [path]}
            manifests[side] = manifest(aside / side, records=records, rejects=0, **more)
            write_json(aside / side / "manifest.json", manifests[side])
        rejects = (row for row in iter_records(path) if isinstance(row, Reject))
        write_jsonl(aside / "rejects.jsonl", ({"where": r.where, "reason": r.reason} for r in rejects))
    return manifests


def _records(path: Path) -> Iterator[Example]:
    return (found for found in iter_records(path) if isinstance(found, Example))


def _of_side(path: Path, side: str, side_of: Any, counts: Counter[str]) -> Iterator[Example]:
    for example in _records(path):
        if side_of(example) == side:
            counts[f"{example.task}/{example.lang}"] += 1
            yield example


def _key(example: Example) -> str:
    """What a record is grouped by: its picture's id or file, or what is asked where there is none."""
    if example.image is None:
        return f"text:{question_hash(example).hex()}"
    return f"picture:{example.image_id or file_of(example)}"


def _groups(path: Path) -> Groups:
    """Pictures that are one by their id, by their file, by their pixels, or nearly.

    The least name stands for a group, and ``content`` is less than ``file`` and ``picture``.
    """
    groups = Groups()
    for example in _records(path):
        if example.image is not None:
            groups.join(_key(example), f"file:{file_of(example)}")
    found: dict[str, tuple[Fingerprint, bool]] = {}
    for example, picture in prints(_records(path), str(path)):
        name = f"file:{file_of(example)}"
        groups.join(name, f"content:{picture.content}")
        found[name] = picture, is_drawn(example)
    pictures = KnownPictures(found)
    for name, (picture, drawn) in found.items():
        for other in pictures.copies_of(picture, drawn=drawn):
            groups.join(name, other)
    return groups
