"""Reading prediction and reference files of other systems: every fault is refused in a line or counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import read_json, read_jsonl, read_text
from ziya_visual.eval.metrics.bootstrap import Statistic

Row = Mapping[str, Any]
DUPLICATES = ("refuse", "first", "last")


@dataclass
class Scored:
    """What a form of ``score`` found.

    Attributes:
        scores: name -> value, as the output file has them.
        failures: reason -> count.
        items: score name -> item -> value, for scores that are means over items: intervals and comparisons.
        rule: the rule or segmenter of the numbers, for the card.
        not_computed: score name -> why.
        notes: what else the card says.
        statistics: the scores with an interval that are no means over items.
        clusters: item -> what is drawn as a whole (the image of a question); by default an item is.
        packages: whose versions decide the numbers.
    """

    scores: dict[str, float]
    failures: Counter[str] = field(default_factory=Counter)
    items: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: str = ""
    not_computed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    statistics: list[Statistic] = field(default_factory=list)
    clusters: dict[str, str] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)


def read_value(path: Path) -> Any:
    """A JSON file as it is, a JSONL file of several rows as a list.

    Raises:
        DataError: neither; the message says what was found.
    """
    text = read_text(path).strip()
    if text[:1] not in ("{", "["):
        raise DataError(f"{path}: starts with {text[:1]!r}; expected JSON, or one JSON object a line")
    first, _, rest = text.partition("\n")
    try:
        value = json.loads(first)
    except json.JSONDecodeError:
        return read_json(path)  # one value over several lines, or the error that says where it breaks
    return [row for _, row in read_jsonl(path)] if rest else value


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON list or of a JSONL file; ``DataError`` for another form."""
    rows = read_value(path)
    rows = rows if isinstance(rows, list) else [rows]
    if not rows:
        raise DataError(f"{path}: holds no rows")
    bad = next((i for i, row in enumerate(rows) if not isinstance(row, Mapping)), None)
    if bad is not None:
        raise DataError(f"{path}: row {bad} is {type(rows[bad]).__name__}, expected an object")
    return rows


def read_object(path: Path, key: str) -> list[Row]:
    """The list under ``key`` of a JSON object, as COCO and VQA files have it."""
    value = read_value(path)
    rows = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        found = f"keys {sorted(value)[:6]}" if isinstance(value, Mapping) else type(value).__name__
        raise DataError(f"{path}: found {found}, expected an object with a filled list {key!r}")
    return rows


def need(row: Row, key: str, path: Path) -> Any:
    """``row[key]``; ``DataError`` with the keys there are, if it is missing."""
    if key not in row:
        raise DataError(f"{path}: a row has no {key!r}, it has {sorted(row)[:8]}")
    return row[key]


def text_of(row: Row, key: str, path: Path) -> str:
    """A field that must be text; numbers are taken as they are written."""
    value = need(row, key, path)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        found = "NaN" if isinstance(value, float) else type(value).__name__
        raise DataError(f"{path}: {key!r} is {found}, expected text")
    return str(value)


def answer_of(row: Row | None, key: str, path: Path, failures: Counter[str]) -> str | None:
    """What a system said; ``None`` where it said nothing, which every form but caption takes as wrong.

    Args:
        row: its row; ``None`` if it has none, which :func:`match_ids` has counted.
        key: the field; null and NaN in it are ``missing``, white space is ``empty``.
        path: for messages.
        failures: counts both.
    """
    if row is None:
        return None
    value = need(row, key, path)
    if value is None or value != value:
        failures["missing"] += 1
        return None
    text = text_of(row, key, path)
    failures["empty"] += not text.strip()
    return text


def by_id(
    rows: Iterable[Row],
    key: str,
    path: Path,
    *,
    failures: Counter[str],
    duplicates: str = "refuse",
    within: str | None = None,
) -> dict[str, Row]:
    """Rows by their id as text: 7 and "7" are the same.

    Args:
        rows: the rows of ``path``.
        key: the id's field.
        path: for messages.
        failures: counts ``duplicate``.
        duplicates: ``refuse``, or keep the ``first`` or ``last`` row of an id and count the others.
        within: a field that ids are unique in only: it goes before the id.

    Raises:
        DataError: an id twice, where that is refused, or one that is neither a number nor a text.
    """
    if duplicates not in DUPLICATES:
        raise ConfigError(f"--duplicates {duplicates!r} is not one of {', '.join(DUPLICATES)}")
    found: dict[str, Row] = {}
    for row in rows:
        item = text_of(row, key, path)
        if within is not None:
            item = f"{text_of(row, within, path)}/{item}"
        if item in found:
            if duplicates == "refuse":
                raise DataError(
                    f"{path}: {key} {item} stands there twice; mend it, or use --duplicates first or last"
                )
            failures["duplicate"] += 1
            if duplicates == "first":
                continue
        found[item] = row
    return found


def match_ids(
    wanted: Iterable[str],
    given: Mapping[str, Row],
    path: Path,
    failures: Counter[str],
    *,
    known: Container[str] = (),
) -> list[str]:
    """The wanted ids in order, after counting ``missing`` and ``unknown_id``; none in common is refused.

    Args:
        wanted: what is scored.
        given: the predictions.
        path: of the predictions.
        failures: counts both.
        known: ids that are not scored and not unknown either.
    """
    wanted = list(wanted)
    scored = set(wanted)
    missing = sum(item not in given for item in wanted)
    unknown = sum(item not in scored and item not in known for item in given)
    if missing == len(wanted):
        raise DataError(
            f"{path}: none of its {len(given)} ids is among the {len(wanted)} expected, "
            f"e.g. {next(iter(given))!r} against {wanted[0]!r}"
        )
    failures["missing"] += missing
    failures["unknown_id"] += unknown
    return wanted


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of an NPZ file, or ``DataError`` naming those that are there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = list(file.files)
            missing = [name for name in names if name not in held]
            if missing:
                raise DataError(f"{path}: has no array {missing[0]!r}; it has {', '.join(held)}")
            return {name: file[name] for name in names}
    except DataError:
        raise
    except Exception as error:  # a damaged file may end in a zip's, a header's or a parser's error
        raise DataError(f"{path}: is no readable NPZ file ({' '.join(str(error).split())[:100]})") from error
