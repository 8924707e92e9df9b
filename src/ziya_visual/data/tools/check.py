"""``data check``: every record of a dataset looked at, pictures decoded; with ``fix`` a mended copy of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import atomic_dir, write_json, write_jsonl
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.records import Box, Example, Message
from ziya_visual.data.dataset import Form, dataset_files, iter_records, write_dataset
from ziya_visual.data.fingerprints import content_hash, fingerprint
from ziya_visual.data.formats import Reject
from ziya_visual.data.formats.folder_csv import TABLE
from ziya_visual.data.leaks import KnownPictures, is_drawn, pictures_of
from ziya_visual.data.tools.manifest import manifest, refuse_foreign

_LANG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(slots=True)
class Report:
    """Rows in = ``records`` + ``rejects``; ``fixes`` are records of which something was mended."""

    records: int = 0
    rejects: list[dict[str, str]] = field(default_factory=list)
    fixes: list[dict[str, str]] = field(default_factory=list)
    by_task_and_lang: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Looked:
    """What decoding a picture showed: its hash and size, or why it cannot be used."""

    content: str = ""
    size: tuple[int, int] = (0, 0)
    problem: str | None = None


class Checker:
    """Judges records one after the other: some faults are of a record beside others."""

    def __init__(self, *, fix: bool, against: KnownPictures | None = None) -> None:
        """``fix`` mends what can be; ``against`` are pictures that may not be in the dataset."""
        self._fix, self._against = fix, against
        self._ids: set[tuple[str, str, str]] = set()
        self._contents: dict[str, str] = {}  # of image ids
        self._looked: tuple[Any, _Looked] = (None, _Looked())  # the last picture: its texts follow each other

    def judge(self, example: Example) -> tuple[Example, list[str]]:
        """The record, mended where that is wanted, and what was mended.

        Raises:
            DataError: it is to be rejected, with the reason.
        """
        key = example.source, example.id, example.lang
        if key in self._ids:
            raise DataError("another record before it has its id")
        example, mended = self._texts(example)
        if example.image is not None:
            looked = self._look(example)
            if looked.problem is not None:
                raise DataError(looked.problem)
            example, more = self._picture(example, looked)
            mended += more
        elif example.boxes:
            raise DataError("boxes without a picture")
        self._ids.add(key)
        return example, mended

    def _texts(self, example: Example) -> tuple[Example, list[str]]:
        if _LANG.fullmatch(example.lang) is None:
            raise DataError(f"language {example.lang[:40]!r}; expected a tag such as en, zh or pt-BR")
        if any(not turn.content.strip() for turn in example.messages):
            raise DataError("a turn says nothing")
        roles = [turn.role for turn in example.messages]
        if not ("assistant" in roles or example.answers):
            raise DataError("neither an assistant's turn to learn nor answers to be judged by")
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        if "system" in spoken or any(a == b for a, b in itertools.pairwise(spoken)):
            raise DataError(f"turns of {', '.join(roles)[:80]}: user and assistant do not take turns")
        stripped = tuple(Message(turn.role, turn.content.strip()) for turn in example.messages)
        if stripped == example.messages:
            return example, []
        return self._mend(example, "spaces around a turn", messages=stripped)

    def _mend(self, example: Example, what: str, **changes: Any) -> tuple[Example, list[str]]:
        if not self._fix:
            raise DataError(f"{what} (--fix mends it)")
        return replace(example, **changes), [what]

    def _look(self, example: Example) -> _Looked:
        if self._looked[0] != example.image:
            self._looked = example.image, self._decode(example)
        return self._looked[1]

    def _decode(self, example: Example) -> _Looked:
        try:
            picture = open_picture(example)
        except DataError as error:
            return _Looked(problem=str(error))
        if self._against is not None:
            copy = self._against.copy_of(fingerprint(picture), drawn=is_drawn(example))
            if copy is not None:
                return _Looked(problem=f"the picture is {copy[0]} of the evaluation ({copy[1]})")
        return _Looked(content_hash(picture), picture.size)

    def _picture(self, example: Example, looked: _Looked) -> tuple[Example, list[str]]:
        mended: list[str] = []
        if example.image_id is None:
            what = "a picture without image_id, which training leaves out"
            example, mended = self._mend(example, what, image_id=looked.content[:16])
        known = self._contents.setdefault(str(example.image_id), looked.content)
        if known != looked.content:
            raise DataError(f"image_id {example.image_id!r} is another picture in a record before it")
        width, height = looked.size
        clipped = tuple(_clip(box, width, height) for box in example.boxes)
        for box, inside in zip(example.boxes, clipped, strict=True):
            if inside.xyxy[0] >= inside.xyxy[2] or inside.xyxy[1] >= inside.xyxy[3]:
                raise DataError(f"box {box.label[:40]!r} is empty or outside of {width} x {height} pixels")
        if clipped != example.boxes:
            example, more = self._mend(example, "a box that reaches out of the picture", boxes=clipped)
            mended += more
        return example, mended


def _clip(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box.xyxy
    return Box(box.label, (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))))


def check_dataset(path: Path, *, out: Path, fix: bool = False, against: Path | None = None) -> Report:
    """Check every row; write ``rejects.jsonl`` into ``out``, with ``fix`` records and ``fixes.jsonl`` too.

    Args:
        path: a dataset, see :func:`store.iter_records`; it is left as it is.
        against: an evaluation's dataset, whose pictures (and near copies of them) are rejected.

    Raises:
        ConfigError: ``out`` holds something else.
        DataError: there is no dataset.
    """
    refuse_foreign(out, path)
    pictures = None
    if against is not None:
        kept = (found for found in iter_records(against) if isinstance(found, Example))
        pictures = pictures_of(kept, str(against))
    report = Report()
    good = _judged(path, Checker(fix=fix, against=pictures), report)
    with atomic_dir(out) as aside:
        if fix:
            write_dataset(aside, good, form_of(path))
            write_jsonl(aside / "fixes.jsonl", report.fixes)
        else:
            for _ in good:
                pass
        write_jsonl(aside / "rejects.jsonl", report.rejects)
        if fix and report.records:
            made = manifest(
                aside,
                records=report.records,
                rejects=len(report.rejects),
                by_task_and_lang=report.by_task_and_lang,
                made_by=f"data check {path} --fix" + (f" --against {against}" if against else ""),
                inputs=[path, against],
            )
            write_json(aside / "manifest.json", made)
    return report


def form_of(path: Path) -> Form:
    """The form in which a dataset is written again: its own."""
    suffix = ".jsonl" if path.is_dir() and (path / TABLE).is_file() else dataset_files(path)[0].suffix
    forms: dict[str, Form] = {".parquet": "parquet", ".tar": "tar"}
    return forms.get(suffix, "jsonl")


def _judged(path: Path, checker: Checker, report: Report) -> Iterator[Example]:
    with log.progress("check", None) as bar:
        for number, found in enumerate(iter_records(path)):
            bar.advance()
            if isinstance(found, Reject):
                report.rejects.append({"where": found.where, "id": "", "reason": found.reason})
                continue
            row = {"where": f"row {number}", "id": found.id}
            try:
                example, mended = checker.judge(found)
            except DataError as error:
                report.rejects.append({**row, "reason": str(error)})
                continue
            report.fixes += [{**row, "fix": what} for what in mended]
            report.records += 1
            report.by_task_and_lang[f"{example.task}/{example.lang}"] += 1
            yield example
