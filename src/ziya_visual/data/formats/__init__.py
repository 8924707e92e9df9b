"""Other people's formats, one file each: a reader gives records, and what it could not read with why.

A reader is a module with a function ``read(source) -> Iterator[Found]``. Its rows are the smallest things
that could be a record: a caption of a picture, a question, a dialogue. Where the thing around them is broken
(a picture's entry without a file name), that is one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ziya_visual.core.records import Example


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no record: where it stands, and why."""

    where: str
    reason: str


Found = Example | Reject


@dataclass(slots=True)
class Imported:
    """Rows in = ``examples`` + ``rejects``."""

    examples: list[Example] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def add(self, found: Found) -> None:
        """File a row under what it became."""
        if isinstance(found, Reject):
            self.rejects.append(found)
        else:
            self.examples.append(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a reader is given.

    Attributes:
        name: of the format; becomes ``Example.source``.
        path: the file or folder that the format's row in ``docs/data.md`` names.
        lang: BCP-47 tag of its texts.
        images: folder of the pictures; without, the folder that ``path`` is or lies in.
        annotations: the second file of the formats that have two.
        split: of the formats that hold several; else noted in ``meta``.
        columns: field of ours -> column of theirs, for ``hub``.
    """

    name: str
    path: Path
    lang: str
    images: Path | None = None
    annotations: Path | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where pictures are looked for, and nowhere outside of it."""
        if self.images is not None:
            return self.images
        return self.path if self.path.is_dir() else self.path.parent
