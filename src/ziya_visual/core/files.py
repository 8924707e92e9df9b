"""Files: written aside and renamed, so that a kill leaves the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example, Prediction, example_from_dict, to_dict

_DECODER = json.JSONDecoder()
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; on success it is synced and takes ``path``'s place.

    The parent folder is made. After an exception nothing of the attempt is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """The same for a whole folder: an existing ``path`` is replaced only when the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    aside.chmod(0o755)
    try:
        yield aside
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / path.name)
            aside.rename(path)
            shutil.rmtree(old)
        else:
            aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, Chinese as it is. NaN and infinity are refused (``ValueError``)."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is absent, not UTF-8, or not JSON; the message names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} is not JSON ({error.msg})") from error


def read_text(path: Path) -> str:
    """Read UTF-8 text, a byte-order mark dropped; ``DataError`` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}; convert it, e.g. with iconv -t utf-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write one JSON value a line, atomically; returns the number of rows."""
    count = 0
    with atomic_path(path) as aside, aside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of a JSONL file as it is read, blank lines skipped.

    Raises:
        DataError: the file is absent or not UTF-8, or a line is not JSON.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    value, end = _DECODER.raw_decode(text)
                    if end < len(text):
                        raise json.JSONDecodeError("Extra data", text, end)
                    yield number, value
            except UnicodeDecodeError as error:
                at = file.tell() - len(line) + error.start
                raise DataError(
                    f"{path}: not UTF-8 at byte {at}; convert it, e.g. with iconv -t utf-8"
                ) from error
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {number} is not JSON ({error.msg})") from error


def read_examples(path: Path) -> list[Example]:
    """Read records from JSONL; the first bad one raises ``DataError`` with file and line."""
    return list(iterate_examples(path))


def iterate_examples(path: Path) -> Iterator[Example]:
    """The same one by one, for files that are larger than memory."""
    for number, row in read_jsonl(path):
        try:
            yield example_from_dict(row)
        except (DataError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: line {number}: {error}") from error


def write_records(path: Path, records: Iterable[Example | Prediction]) -> int:
    """Write records as JSONL; returns how many."""
    return write_jsonl(path, (to_dict(record) for record in records))


def hash_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, Chinese as it is: equal for equal values."""
    return _CANONICAL.encode(value)


def hash_json(value: Any) -> str:
    """SHA-256 of the value's canonical JSON: keys sorted, no spaces, Chinese as UTF-8."""
    return hash_bytes(canonical_json(value).encode())


def hash_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
