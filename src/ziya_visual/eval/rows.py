"""Readers for prediction and reference files of any system. Every fault is refused in one line or counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import read_json, read_jsonl, read_text

Row = Mapping[str, Any]
DUPLICATES = ("refuse", "first", "last")


def read_value(path: Path) -> Any:
    """Return the value of a JSON file, or the rows of a JSONL file as a list."""
    text = read_text(path).strip()
    if text[:1] not in ("{", "["):
        raise DataError(f"{path}: starts with {text[:1]!r}; expected JSON, or one JSON object per line")
    first, _, rest = text.partition("\n")
    try:
        value = json.loads(first)
    except json.JSONDecodeError:
        return read_json(path)  # one value over several lines, or an error that says where it breaks
    return [row for _, row in read_jsonl(path)] if rest else value


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON list or a JSONL file; raise ``DataError`` for anything else."""
    value = read_value(path)
    rows = value if isinstance(value, list) else [value]
    if not rows:
        raise DataError(f"{path}: has no rows")
    bad = next((number for number, row in enumerate(rows) if not isinstance(row, Mapping)), None)
    if bad is not None:
        raise DataError(f"{path}: row {bad} is {type(rows[bad]).__name__}, expected an object")
    return rows


def read_object(path: Path, key: str) -> list[Row]:
    """Return the list under ``key`` of a JSON object, as COCO and VQA files have it."""
    value = read_value(path)
    rows = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        content = f"keys {sorted(value)[:6]}" if isinstance(value, Mapping) else type(value).__name__
        raise DataError(f"{path}: found {content}, expected an object with a non-empty list {key!r}")
    return rows


def need(row: Row, key: str, path: Path) -> Any:
    """Return ``row[key]``; raise ``DataError`` with the existing keys if it is missing."""
    if key not in row:
        raise DataError(f"{path}: a row has no {key!r}, it has {sorted(row)[:8]}")
    return row[key]


def text_of(row: Row, key: str, path: Path) -> str:
    """Return a field that must be text; numbers are taken as they are written."""
    value = need(row, key, path)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        content = "NaN" if isinstance(value, float) else type(value).__name__
        raise DataError(f"{path}: {key!r} is {content}, expected text")
    return str(value)


def answer_of(row: Row | None, key: str, path: Path, failures: Counter[str]) -> str | None:
    """Return a system's answer, or ``None`` if it gave none; every form but caption counts that as wrong.

    Null and NaN are counted as ``missing`` and white space as ``empty``; :func:`match_ids` has counted an
    absent row already.
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
    """Return the rows by their id as text: 7 and "7" are the same id.

    With ``duplicates`` ``refuse`` a second row of an id raises ``DataError``; else its ``first`` or ``last``
    row is used and the others are counted. ``within`` names a field within whose values the ids are unique;
    its value is put before the id.
    """
    check_choice("--duplicates", duplicates, DUPLICATES)
    rows_by_id: dict[str, Row] = {}
    for row in rows:
        item = text_of(row, key, path)
        if within is not None:
            item = f"{text_of(row, within, path)}/{item}"
        if item in rows_by_id:
            if duplicates == "refuse":
                raise DataError(
                    f"{path}: duplicate {key} {item}; make ids unique, or use --duplicates first or last"
                )
            failures["duplicate"] += 1
            if duplicates == "first":
                continue
        rows_by_id[item] = row
    return rows_by_id


def match_ids(
    wanted: Iterable[str],
    predicted: Mapping[str, Row],
    path: Path,
    failures: Counter[str],
    *,
    known: Container[str] = (),
) -> list[str]:
    """Return the wanted ids in order, and count ``missing`` and ``unknown_id`` of the predictions.

    Ids in ``known`` are not scored but not unknown either. No id in common raises ``DataError``.
    """
    wanted = list(wanted)
    scored = set(wanted)
    missing = sum(item not in predicted for item in wanted)
    if missing == len(wanted):
        raise DataError(
            f"{path}: none of its {len(predicted)} ids is among the {len(wanted)} expected, "
            f"e.g. {next(iter(predicted))!r} against {wanted[0]!r}"
        )
    failures["missing"] += missing
    failures["unknown_id"] += sum(item not in scored and item not in known for item in predicted)
    return wanted


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ConfigError`` if an option has an unknown value."""
    if value not in choices:
        raise ConfigError(f"{option} {value!r} is not one of {', '.join(choices)}{nearest(value, choices)}")


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays of an NPZ file; raise ``DataError`` if one is missing."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                raise DataError(f"{path}: has no array {missing[0]!r}; it has {', '.join(file.files)}")
            return {name: file[name] for name in names}
    except DataError:
        raise
    except Exception as error:  # a damaged file may fail in zipfile, in NumPy's header or in its parser
        raise DataError(f"{path}: not a readable NPZ file ({' '.join(str(error).split())[:100]})") from error
