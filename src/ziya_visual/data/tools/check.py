"""``data check``: check every record and decode every image of a dataset; ``fix`` writes a repaired copy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import atomic_dir, write_jsonl
from ziya_visual.core.pictures import open_picture, pixel_hash
from ziya_visual.core.records import Box, Example, Message
from ziya_visual.data.dataset import form_of, iter_records, valid_records
from ziya_visual.data.fingerprints import fingerprint
from ziya_visual.data.formats.rows import Reject, attempt
from ziya_visual.data.leaks import KnownImages, is_drawn, known_images
from ziya_visual.data.tools.importing import refuse_foreign, write_counted

_LANG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(slots=True)
class Report:
    """The rows of a dataset, as ``records`` and ``rejects``; ``fixes`` lists what was repaired."""

    records: int = 0
    rejects: list[dict[str, str]] = field(default_factory=list)
    fixes: list[dict[str, str]] = field(default_factory=list)


_Decoded = tuple[str, tuple[int, int]]  # the pixel hash and the size of an image


class Checker:
    """Checks records in order, since some faults appear only beside earlier records."""

    def __init__(self, *, fix: bool, against: KnownImages | None = None) -> None:
        """Set whether to repair records, and the images that must not be in the dataset."""
        self._fix, self._against = fix, against
        self._ids: set[tuple[str, str, str]] = set()
        self._hashes: dict[str, str] = {}  # image id -> pixel hash
        # The texts of an image follow each other, so the last one is kept.
        self._last: tuple[Any, _Decoded | Reject] = (None, Reject("", ""))

    def check(self, example: Example) -> tuple[Example, list[str]]:
        """Return the record, repaired if ``fix`` is set, and the repairs; ``DataError`` if it is rejected."""
        key = example.source, example.id, example.lang
        if key in self._ids:
            raise DataError("an earlier record has the same id")
        example, fixes = self._check_texts(example)
        if example.image is not None:
            if self._last[0] != example.image:
                self._last = example.image, attempt("", self._decode, example)
            decoded = self._last[1]
            if isinstance(decoded, Reject):
                raise DataError(decoded.reason)
            example, more = self._check_image(example, *decoded)
            fixes += more
        elif example.boxes:
            raise DataError("boxes without an image")
        self._ids.add(key)
        return example, fixes

    def _check_texts(self, example: Example) -> tuple[Example, list[str]]:
        if _LANG.fullmatch(example.lang) is None:
            raise DataError(f"language {example.lang[:40]!r}; expected a tag such as en, zh or pt-BR")
        if any(not turn.content.strip() for turn in example.messages):
            raise DataError("a turn is empty")
        roles = [turn.role for turn in example.messages]
        if not ("assistant" in roles or example.answers):
            raise DataError("neither an assistant turn to learn nor answers to score")
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        if "system" in spoken or any(a == b for a, b in itertools.pairwise(spoken)):
            raise DataError(f"turns of {', '.join(roles)[:80]}: user and assistant do not alternate")
        stripped = tuple(Message(turn.role, turn.content.strip()) for turn in example.messages)
        if stripped == example.messages:
            return example, []
        return self._fixed(example, "spaces around a turn", messages=stripped)

    def _fixed(self, example: Example, what: str, **changes: Any) -> tuple[Example, list[str]]:
        if not self._fix:
            raise DataError(f"{what} (--fix repairs it)")
        return replace(example, **changes), [what]

    def _decode(self, example: Example) -> _Decoded:
        image = open_picture(example)
        if self._against is not None:
            copy = self._against.copy_of(fingerprint(image), drawn=is_drawn(example))
            if copy is not None:
                raise DataError(f"the image is {copy[0]} of the evaluation ({copy[1]})")
        return pixel_hash(image), image.size

    def _check_image(
        self, example: Example, content: str, size: tuple[int, int]
    ) -> tuple[Example, list[str]]:
        fixes: list[str] = []
        if example.image_id is None:
            what = "an image without image_id, which training leaves out"
            example, fixes = self._fixed(example, what, image_id=content[:16])
        known = self._hashes.setdefault(str(example.image_id), content)
        if known != content:
            raise DataError(f"image_id {example.image_id!r} is another image in an earlier record")
        width, height = size
        clipped = tuple(_clip(box, width, height) for box in example.boxes)
        for box, inside in zip(example.boxes, clipped, strict=True):
            if inside.xyxy[0] >= inside.xyxy[2] or inside.xyxy[1] >= inside.xyxy[3]:
                raise DataError(f"box {box.label[:40]!r} is empty or outside the {width} x {height} pixels")
        if clipped != example.boxes:
            example, more = self._fixed(example, "a box that extends beyond the image", boxes=clipped)
            fixes += more
        return example, fixes


def _clip(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box.xyxy
    return Box(box.label, (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))))


def check_dataset(path: Path, *, out: Path, fix: bool = False, against: Path | None = None) -> Report:
    """Check every row and write ``out/rejects.jsonl``; with ``fix`` also the records and ``fixes.jsonl``.

    Args:
        path: a dataset, see :func:`~ziya_visual.data.dataset.iter_records`; it is not changed.
        out: a new folder, or the result of an earlier check, which is replaced.
        fix: write the records that are valid or can be repaired.
        against: an evaluation dataset, whose images (and near copies of them) are rejected.

    Raises:
        ConfigError: ``out`` holds something else.
        DataError: there is no dataset.
    """
    refuse_foreign(out, path)
    known = None if against is None else known_images(valid_records(against), str(against))
    report = Report()
    accepted = _accepted(path, Checker(fix=fix, against=known), report)
    with atomic_dir(out) as aside:
        if fix:
            command = f"data check {path} --fix" + (f" --against {against}" if against else "")
            inputs = [path, against]
            form = form_of(path)
            write_counted(aside, accepted, form, rejects=report.rejects, made_by=command, inputs=inputs)
            write_jsonl(aside / "fixes.jsonl", report.fixes)
        else:
            for _ in accepted:
                pass
        write_jsonl(aside / "rejects.jsonl", report.rejects)
    return report


def _accepted(path: Path, checker: Checker, report: Report) -> Iterator[Example]:
    with log.progress("check", None) as bar:
        for number, row in enumerate(iter_records(path)):
            bar.advance()
            if isinstance(row, Reject):
                report.rejects.append({"where": row.where, "id": "", "reason": row.reason})
                continue
            place = {"where": f"row {number}", "id": row.id}
            try:
                example, fixes = checker.check(row)
            except DataError as error:
                report.rejects.append({**place, "reason": str(error)})
                continue
            report.fixes += [{**place, "fix": what} for what in fixes]
            report.records += 1
            yield example
