"""Other people's formats, one file each: a reader gives records, and what it could not read with why."""

from __future__ import annotations

from dataclasses import dataclass, field

from ziya_visual.core.records import Example


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no record: where it stands, and why."""

    where: str
    reason: str


@dataclass(slots=True)
class Imported:
    """Rows in = ``examples`` + ``rejects``."""

    examples: list[Example] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
