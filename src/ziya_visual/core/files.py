"""Text, JSON, JSONL and hashes. Files are written atomically: a kill leaves the old file or the new one."""

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
    """Yield a temporary path beside ``path``; on success it is synced and replaces ``path``.

    The parent folder is created. After an exception the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``path``, and whatever was there, once the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / path.name)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, in UTF-8. NaN and infinity raise ``ValueError``."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing, not UTF-8, or not JSON; the message names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} is not JSON ({error.msg})") from error


def read_text(path: Path) -> str:
    """Read UTF-8 text, without its byte-order mark.

    Raises:
        DataError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.start) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _not_utf8(path: Path, offset: int) -> DataError:
    return DataError(f"{path}: not UTF-8 at byte {offset}; convert it, e.g. with iconv -t utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write one JSON value per line, atomically, and return the number of rows."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line number (from 1) and value of each line of a JSONL file, skipping blank lines.

    Raises:
        DataError: The file is missing or not UTF-8, or a line is not JSON.
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
                raise _not_utf8(path, file.tell() - len(line) + error.start) from error
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {number} is not JSON ({error.msg})") from error


def read_examples(path: Path) -> list[Example]:
    """Read all records of a JSONL file; the first invalid one raises ``DataError`` with file and line."""
    return list(iterate_examples(path))


def iterate_examples(path: Path) -> Iterator[Example]:
    """Yield the records of a JSONL file one by one, for files larger than memory."""
    for number, row in read_jsonl(path):
        try:
            yield example_from_dict(row)
        except (DataError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: line {number}: {error}") from error


def write_records(path: Path, records: Iterable[Example | Prediction]) -> int:
    """Write records as JSONL, atomically, and return their number."""
    return write_jsonl(path, (to_dict(record) for record in records))


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text."""
    return _CANONICAL.encode(value)


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hash_bytes(canonical_json(value).encode())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
