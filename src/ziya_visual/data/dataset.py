"""Records in files: Parquet, WebDataset tars and JSONL, written whole or not at all, read row by row.

A dataset is a folder of ``records*.parquet``, ``records*.tar`` or ``records.jsonl``. The first two hold the
pictures; stock ``datasets.load_dataset("parquet" | "webdataset", data_files=...)`` opens them. The texts of a
picture that follow each other share its bytes in Parquet, by its dictionary, and repeat them in a tar.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import atomic_path
from ziya_visual.core.pictures import FORMATS, LIMIT_BYTES
from ziya_visual.core.records import Example, ImageRef, example_from_dict, to_dict
from ziya_visual.data.formats import Found, Reject
from ziya_visual.data.formats.folder_csv import TABLE, read_folder
from ziya_visual.data.formats.rows import LIMIT_TEXT, attempt, lines, parse, text_of
from ziya_visual.data.formats.webdataset import record_of, samples

Form = Literal["parquet", "tar", "jsonl"]
GROUP_ROWS, GROUP_BYTES = 128, 8_000_000  # of a row group, whichever is reached first: what a reader holds
FILE_ROWS = 100_000  # of a file; more go into the next

# DESIGN, "The record". ``meta`` is what Arrow calls a map, spelt as the list that `datasets` knows.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_id", pa.string()),
        ("lang", pa.string()),
        ("task", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("answers", pa.list_(pa.string())),
        ("boxes", pa.list_(pa.struct([("label", pa.string()), ("xyxy", pa.list_(pa.float64()))]))),
        ("meta", pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))),
        ("source", pa.string()),
        (
            "provenance",
            pa.struct(
                [
                    ("origin", pa.string()),
                    ("translated_from", pa.string()),
                    ("model", pa.string()),
                    ("prompt_hash", pa.string()),
                    ("checks", pa.list_(pa.string())),
                ]
            ),
        ),
    ]
)


def to_row(example: Example) -> dict[str, Any]:
    """A row of :data:`SCHEMA`."""
    meta = [{"key": key, "value": value} for key, value in example.meta.items()]
    return {**asdict(example), "meta": meta}


def from_row(row: Mapping[str, Any]) -> Example:
    """A record of a row; ``DataError`` where it is none."""
    meta = {pair["key"]: pair["value"] for pair in row.get("meta") or ()}
    return example_from_dict({**row, "meta": meta})


def write_dataset(folder: Path, examples: Iterable[Example], form: Form) -> int:
    """Write records into a folder, pictures included but for JSONL; returns how many.

    Raises:
        DataError: a picture cannot be read, or is in memory and JSONL is wanted.
    """
    rows, count = iter(examples), 0
    if form == "jsonl":
        return _write_jsonl(folder / "records.jsonl", rows)
    write = {"parquet": _write_parquet, "tar": _write_tar}[form]
    for number in range(2**31):
        written = write(folder / f"records-{number:05d}.{form}", _first(rows, FILE_ROWS))
        count += written
        if written < FILE_ROWS:
            break
    return count


def _first(rows: Iterator[Example], count: int) -> Iterator[Example]:
    """The next rows with their pictures' bytes; the last picture is kept, for texts follow each other."""
    last: tuple[str | None, bytes] = (None, b"")
    for _, example in zip(range(count), rows, strict=False):
        if example.image is not None and example.image.path is not None:
            if example.image.path != last[0]:
                last = example.image.path, _read(Path(example.image.path))
            example = replace(example, image=ImageRef(bytes=last[1]))
        yield example


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > LIMIT_BYTES:
        raise DataError(f"{path}: more than {LIMIT_BYTES:,} bytes")
    return data


def _write_jsonl(path: Path, examples: Iterator[Example]) -> int:
    count = 0
    with atomic_path(path) as aside, aside.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(to_dict(example), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, examples: Iterator[Example]) -> int:
    options: dict[str, Any] = {"compression": "zstd", "dictionary_pagesize_limit": 2 * GROUP_BYTES}
    count = 0
    with atomic_path(path) as aside, pq.ParquetWriter(aside, SCHEMA, **options) as writer:
        for rows in _groups(examples):
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            count += len(rows)
    return count


def _groups(examples: Iterator[Example]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for example in examples:
        rows.append(to_row(example))
        size += len(example.image.bytes or b"") if example.image else 0
        if len(rows) == GROUP_ROWS or size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _write_tar(path: Path, examples: Iterator[Example]) -> int:
    count = 0
    with atomic_path(path) as aside, tarfile.open(aside, "w") as tar:
        for count, example in enumerate(examples, start=1):
            data = example.image.bytes if example.image else None
            row = json.dumps(to_dict(replace(example, image=None)), ensure_ascii=False, allow_nan=False)
            _add(tar, f"{count:08d}.json", row.encode())
            if data is not None:
                _add(tar, f"{count:08d}.{_ending(data)}", data)
    return count


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _ending(data: bytes) -> str:
    """The ending of a picture's kind, by its header."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        kind = (picture.format or "").lower()
    return {"jpeg": "jpg", "mpo": "jpg"}.get(kind, kind)


def dataset_files(path: Path) -> list[Path]:
    """The files of a dataset: itself, or the ``records*`` of a folder, of one form.

    Raises:
        DataError: there is none, or of several forms.
    """
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.glob("records*") if f.suffix in (".parquet", ".tar", ".jsonl"))
    forms = sorted({file.suffix for file in files})
    if len(forms) != 1:
        found = f"of several forms ({', '.join(forms)})" if forms else "not there"
        raise DataError(f"{path}: records*.parquet, .tar or .jsonl are {found}, and there is no {TABLE}")
    return files


def iter_records(path: Path) -> Iterator[Found]:
    """Every row of a dataset, in order, as a record or a reject; a folder with a ``captions.csv`` is one too.

    Raises:
        DataError: there is no dataset, or a file is of another form from its beginning.
    """
    if path.is_dir() and (path / TABLE).is_file():
        table = read_folder(path)
        yield from table.examples
        yield from table.rejects
        return
    for file in dataset_files(path):
        yield from {".parquet": _parquet, ".tar": _tar}.get(file.suffix, _jsonl)(file)


def _jsonl(path: Path) -> Iterator[Found]:
    for where, line in lines(path):
        yield line if isinstance(line, Reject) else attempt(where, _record, line)


def _record(line: str) -> Example:
    row = parse(line)
    if not isinstance(row, dict):
        raise DataError(f"{type(row).__name__}, no record")
    if "\\ud" in line.lower():
        text_of(json.dumps(row, ensure_ascii=False)[:LIMIT_TEXT])
    return checked(row)


def checked(row: Mapping[str, Any]) -> Example:
    """A record of a mapping of any content; what does not fit is a ``DataError``."""
    try:
        return from_row(row) if isinstance(row.get("meta"), list) else example_from_dict(row)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise DataError(f"record {str(row.get('id', '?'))[:60]!r}: {error}") from error


def _tar(path: Path) -> Iterator[Found]:
    for where, sample in samples(path):
        if isinstance(sample, Reject):
            yield sample
        else:
            row = attempt(where, record_of, sample)
            yield row if isinstance(row, Reject) else attempt(where, checked, row)


def _parquet(path: Path) -> Iterator[Found]:
    with open_parquet(path) as file:
        number = 0
        for group in range(file.num_row_groups):
            rows = attempt(f"{path.name}:{number}", read_group, file, group)
            if isinstance(rows, Reject):
                yield rows
                number += file.metadata.row_group(group).num_rows
                continue
            for row in rows.to_pylist():
                yield attempt(f"{path.name}:{number}", checked, row)
                number += 1


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file with the columns of a record; ``DataError`` where it is none."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: no Parquet that can be read ({' '.join(str(error).split())[:120]})"
        ) from error
    missing = [name for name in ("id", "lang", "task", "messages") if name not in file.schema_arrow.names]
    if missing:
        file.close()
        raise DataError(f"{path}: no column {', '.join(missing)}; read other people's with `data import hub`")
    return file


def read_group(file: pq.ParquetFile, group: int) -> pa.Table:
    """A row group; ``DataError`` where its bytes are damaged."""
    try:
        table = file.read_row_group(group)
        table.validate(full=True)  # so that turning it into rows cannot fail
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"row group {group} is damaged ({' '.join(str(error).split())[:100]})") from error
    return table
