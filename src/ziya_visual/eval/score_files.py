"""Reading prediction and reference files of other systems: every fault is refused in a line or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.io import read_json, read_jsonl, read_text

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
    """

    scores: dict[str, float]
    failures: Counter[str] = field(default_factory=Counter)
    items: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: str = ""
    not_computed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON list or of a JSONL file.

    Raises:
        DataError: another form; the message says what was found.
    """
    start = read_text(path).lstrip()[:1]
    if start == "[":
        rows = read_json(path)
    elif path.suffix == ".jsonl" or start == "{":
        rows = [row for _, row in read_jsonl(path)]
    else:
        raise DataError(f"{path}: starts with {start!r}; expected a JSON list or one JSON object a line")
    if not rows:
        raise DataError(f"{path}: holds no rows")
    bad = next((i for i, row in enumerate(rows) if not isinstance(row, Mapping)), None)
    if bad is not None:
        raise DataError(f"{path}: row {bad} is {type(rows[bad]).__name__}, expected an object")
    return list(rows)


def read_object(path: Path, key: str) -> list[Row]:
    """The list under ``key`` of a JSON object, as COCO and VQA files have it."""
    value = read_json(path)
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
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{path}: {key!r} is {type(value).__name__}, expected text")
    return str(value)


def by_id(
    rows: Iterable[Row], key: str, path: Path, *, duplicates: str, failures: Counter[str]
) -> dict[str, Row]:
    """Rows by their id as text.

    Args:
        rows: the rows of ``path``.
        key: the id's field.
        path: for messages.
        duplicates: ``refuse``, or keep the ``first`` or ``last`` row of an id and count the others.
        failures: counts ``duplicate``.

    Raises:
        DataError: an id twice, where that is refused.
    """
    if duplicates not in DUPLICATES:
        raise ConfigError(f"--duplicates {duplicates!r} is not one of {', '.join(DUPLICATES)}")
    found: dict[str, Row] = {}
    for row in rows:
        item = str(need(row, key, path))
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
    wanted: Iterable[str], given: Mapping[str, Row], path: Path, failures: Counter[str]
) -> list[str]:
    """The wanted ids in order, after counting ``missing`` and ``unknown_id``; none in common is refused."""
    wanted = list(wanted)
    known = set(wanted)
    missing = sum(item not in given for item in wanted)
    unknown = sum(item not in known for item in given)
    if missing == len(wanted):
        raise DataError(
            f"{path}: none of its {len(given)} ids is among the {len(wanted)} expected, "
            f"e.g. {next(iter(given))!r} against {wanted[0]!r}"
        )
    if missing:
        failures["missing"] += missing
    if unknown:
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
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise DataError(f"{path}: is no readable NPZ file ({error})") from error
