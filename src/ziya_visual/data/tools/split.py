"""``data split``: split a dataset in two, with an image's texts, copies and near copies on one side."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import atomic_dir, write_jsonl
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import form_of, iter_records, valid_records
from ziya_visual.data.fingerprints import Fingerprint
from ziya_visual.data.formats import Reject
from ziya_visual.data.leaks import KnownImages, file_key, fingerprints, is_drawn, question_hash
from ziya_visual.data.tools.importing import refuse_foreign, write_counted

SIDES = ("train", "heldout")


class Groups:
    """Names that belong together, joined pair by pair (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the name that represents the group."""
        while (parent := self._parents.get(name, name)) != name:
            self._parents[name] = self._parents.get(parent, parent)
            name = parent
        return name

    def join(self, name: str, other: str) -> None:
        """Join two groups. The lesser name represents the result, whatever the order of the pairs."""
        first, second = sorted((self.of(name), self.of(other)))
        self._parents[second] = first


def split_dataset(path: Path, *, out: Path, heldout: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """Write ``out/train``, ``out/heldout`` and ``out/rejects.jsonl``; return the manifests by side.

    Args:
        path: a dataset, see :func:`~ziya_visual.data.dataset.iter_records`.
        out: a new folder, or an earlier split, which is replaced.
        heldout: fraction of the images (and of the dialogues without one) to hold out.
        seed: seed of the draw, which hashes the pixels: an image stays on its side wherever its file is and
            whatever other images there are, except for copies of it.

    Raises:
        ConfigError: ``out`` holds something else.
        DataError: an image cannot be read, or a side would be empty.
    """
    refuse_foreign(out, path)
    groups = _groups(path)

    def side_of(example: Example) -> str:
        digest = hashlib.sha256(f"{seed}:{groups.of(_key(example))}".encode()).digest()
        return SIDES[int.from_bytes(digest[:8], "big") < heldout * 2**64]

    command = f"data split {path} --heldout {heldout:g} --seed {seed}"
    with atomic_dir(out) as aside:
        manifests = {}
        for side in SIDES:
            examples = (record for record in valid_records(path) if side_of(record) == side)
            manifests[side] = write_counted(
                aside / side, examples, form_of(path), rejects=(), made_by=command, inputs=[path]
            )
            if not manifests[side]["records"]:
                raise DataError(f"{path}: no record for {side}; heldout is {heldout:g}, try another seed")
        rejects = (asdict(row) for row in iter_records(path) if isinstance(row, Reject))
        write_jsonl(aside / "rejects.jsonl", rejects)
    return manifests


def _key(example: Example) -> str:
    """Return the key that groups a record: its image's id or file, or its question if it has no image."""
    if example.image is None:
        return f"text:{question_hash(example).hex()}"
    return f"picture:{example.image_id or file_key(example)}"


def _groups(path: Path) -> Groups:
    """Group images that share their id, their file or their pixels, or are near copies.

    The least name represents a group, and ``content`` is less than ``file`` and ``picture``.
    """
    groups = Groups()
    for example in valid_records(path):
        if example.image is not None:
            groups.join(_key(example), f"file:{file_key(example)}")
    by_file: dict[str, tuple[Fingerprint, bool]] = {}
    for example, image in fingerprints(valid_records(path), str(path)):
        name = f"file:{file_key(example)}"
        groups.join(name, f"content:{image.content}")
        by_file[name] = image, is_drawn(example)
    known = KnownImages(by_file)
    for name, (image, drawn) in by_file.items():
        for other in known.copies_of(image, drawn=drawn):
            groups.join(name, other)
    return groups
