"""Datasets in files: Parquet, WebDataset tars and JSONL; written whole or not at all, read row by row.

A dataset is a folder of ``records*.parquet``, ``records*.tar`` or ``records.jsonl``. The first two hold the
images; stock ``datasets.load_dataset("parquet" | "webdataset", data_files=...)`` opens them. In Parquet,
consecutive texts of one image share its bytes through the column's dictionary; a tar repeats the bytes.

:func:`stream` reads a dataset through Hugging Face ``datasets`` with little memory. The shuffle buffer of
``datasets`` loses its content when a stream stops. Here the order is a function of seed and epoch: row groups
of all files are drawn into windows, and rows within a window. A window is a shard to ``datasets``, which
keeps the position (``state_dict``) and gives each worker and machine (``split_dataset_by_node``) its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ziya_visual.core.errors import DataError, one_line
from ziya_visual.core.files import atomic_path, write_records
from ziya_visual.core.pictures import LIMIT_BYTES, file_extension
from ziya_visual.core.records import Example, ImageRef, example_from_dict, to_dict
from ziya_visual.data.formats.folder_csv import TABLE, read_folder
from ziya_visual.data.formats.rows import LIMIT_TEXT, Parsed, Reject, attempt, attempts, lines, parse, text_of
from ziya_visual.data.formats.webdataset import record_of, samples

if TYPE_CHECKING:
    from datasets import IterableDataset

Form = Literal["parquet", "tar", "jsonl"]
GROUP_ROWS, GROUP_BYTES = 128, 8_000_000  # a row group ends at whichever comes first; readers hold one
FILE_ROWS = 100_000  # rows of a file; the next file takes more
WINDOW = 8  # row groups that are shuffled together: about a thousand rows, at most 64 MB of images
_Place = tuple[str, int]  # a Parquet file and the number of a row group; a tar or JSONL file and 0

# DESIGN, "The record". ``meta`` is an Arrow map, written as the list of pairs that `datasets` supports.
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_PROVENANCE = [(name, _TEXT) for name in ("origin", "translated_from", "model", "prompt_hash")]
SCHEMA = pa.schema(
    [
        ("id", _TEXT),
        ("image", pa.struct([("bytes", pa.binary()), ("path", _TEXT)])),
        *((name, _TEXT) for name in ("image_id", "lang", "task")),
        ("messages", pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))),
        ("answers", _TEXTS),
        ("boxes", pa.list_(pa.struct([("label", _TEXT), ("xyxy", pa.list_(pa.float64()))]))),
        ("meta", pa.list_(pa.struct([("key", _TEXT), ("value", _TEXT)]))),
        ("source", _TEXT),
        ("provenance", pa.struct([*_PROVENANCE, ("checks", _TEXTS)])),
    ]
)


def to_row(example: Example) -> dict[str, Any]:
    """Convert a record to a row of :data:`SCHEMA`."""
    meta = [{"key": key, "value": value} for key, value in example.meta.items()]
    return {**asdict(example), "meta": meta}


def from_row(row: Mapping[str, Any]) -> Example:
    """Convert a row of :data:`SCHEMA` to a record; ``DataError`` if it is not one."""
    meta = {pair["key"]: pair["value"] for pair in row.get("meta") or ()}
    return example_from_dict({**row, "meta": meta})


def write_dataset(folder: Path, examples: Iterable[Example], form: Form) -> int:
    """Write records into a folder and return how many. All forms but JSONL include the images.

    ``DataError`` if an image cannot be read, or is held in memory and the form is JSONL.
    """
    rows, count = iter(examples), 0
    if form == "jsonl":
        return write_records(folder / "records.jsonl", rows)
    write = {"parquet": _write_parquet, "tar": _write_tar}[form]
    for number in range(2**31):
        written = write(folder / f"records-{number:05d}.{form}", _with_bytes(rows, FILE_ROWS))
        count += written
        if written < FILE_ROWS:
            break
    return count


def _with_bytes(rows: Iterator[Example], count: int) -> Iterator[Example]:
    """Yield the next rows with their images' bytes. Texts of one image follow each other, so one is kept."""
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


def _write_parquet(path: Path, examples: Iterator[Example]) -> int:
    options: dict[str, Any] = {"compression": "zstd", "dictionary_pagesize_limit": 2 * GROUP_BYTES}
    count = 0
    with atomic_path(path) as aside, pq.ParquetWriter(aside, SCHEMA, **options) as writer:
        for rows in _row_groups(examples):
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            count += len(rows)
    return count


def _row_groups(examples: Iterator[Example]) -> Iterator[list[dict[str, Any]]]:
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
            members = {"json": row.encode()} | ({} if data is None else {file_extension(data): data})
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{count:08d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return count


def dataset_files(path: Path) -> list[Path]:
    """Return a dataset's files: itself, or a folder's ``records*``; ``DataError`` unless of one form."""
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.glob("records*") if f.suffix in (".parquet", ".tar", ".jsonl"))
    forms = sorted({file.suffix for file in files})
    if len(forms) != 1:
        count = f"several forms ({', '.join(forms)})" if forms else f"none, and there is no {TABLE}"
        raise DataError(f"{path}: expected records*.parquet, .tar or .jsonl; the folder holds {count}")
    return files


def form_of(path: Path) -> Form:
    """Return the form in which a copy of a dataset is written: its own."""
    if (path / TABLE).is_file():
        return "jsonl"
    forms: dict[str, Form] = {".parquet": "parquet", ".tar": "tar"}
    return forms.get(dataset_files(path)[0].suffix, "jsonl")


def iter_records(path: Path) -> Iterator[Parsed]:
    """Yield every row of a dataset, in order, as a record or a reject.

    A folder with a ``captions.csv`` is a dataset too. ``DataError`` if there is no dataset, or a file is not
    of the form that its name says.
    """
    if (path / TABLE).is_file():
        table = read_folder(path)
        yield from table.examples
        yield from table.rejects
        return
    for file in dataset_files(path):
        if file.suffix == ".parquet":
            yield from _parquet(file)
        elif file.suffix == ".tar":
            yield from attempts(samples(file), _record_in_tar)
        else:
            yield from attempts(lines(file), _record)


def valid_records(path: Path) -> Iterator[Example]:
    """Yield the records of a dataset without its rejects; raises as :func:`iter_records`."""
    return (row for row in iter_records(path) if isinstance(row, Example))


def _record(line: str) -> Example:
    row = parse(line)
    if not isinstance(row, dict):
        raise DataError(f"expected a record, found {type(row).__name__}")
    if "\\ud" in line.lower():
        text_of(json.dumps(row, ensure_ascii=False)[:LIMIT_TEXT])
    return record_from(row)


def record_from(row: Mapping[str, Any]) -> Example:
    """Convert a mapping of any content to a record; ``DataError`` if it does not fit."""
    try:
        return from_row(row) if isinstance(row.get("meta"), list) else example_from_dict(row)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise DataError(f"record {str(row.get('id', '?'))[:60]!r}: {error}") from error


def _record_in_tar(sample: dict[str, bytes]) -> Example:
    return record_from(record_of(sample))


def _parquet(path: Path) -> Iterator[Parsed]:
    with _open_parquet(path) as file:
        number = 0
        for group in range(file.num_row_groups):
            rows = attempt(f"{path.name}:{number}", _read_group, file, group)
            if isinstance(rows, Reject):
                yield rows
                number += file.metadata.row_group(group).num_rows
                continue
            for row in rows.to_pylist():
                yield attempt(f"{path.name}:{number}", record_from, row)
                number += 1


def _open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file that has the columns of a record; ``DataError`` if it has not."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({one_line(error, 120)})") from error
    missing = [name for name in ("id", "lang", "task", "messages") if name not in file.schema_arrow.names]
    if missing:
        file.close()
        raise DataError(f"{path}: no column {', '.join(missing)}; use `data import hub` for foreign files")
    return file


def _read_group(file: pq.ParquetFile, group: int) -> pa.Table:
    """Read a row group; ``DataError`` if its bytes are damaged."""
    try:
        table = file.read_row_group(group)
        table.validate(full=True)  # so that turning it into rows cannot fail
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"row group {group} is damaged ({one_line(error, 100)})") from error
    return table


def stream(path: Path, *, seed: int | None = None, epoch: int = 0) -> IterableDataset:
    """Stream the rows of a dataset (:data:`SCHEMA` as mappings) through Hugging Face ``datasets``.

    Args:
        path: as for :func:`iter_records`, which also says what raises ``DataError``. While streaming, a row
            that is not a record does too; remove such rows with `data check --fix`.
        seed: determines the order; without it rows come in file order.
        epoch: selects another order of the same rows. Tars and JSONL files are read sequentially: their files
            are shuffled, and each thousand consecutive rows.
    """
    import datasets

    places = [place for file in dataset_files(path) for place in _places(file)]
    if seed is not None:
        order = np.random.default_rng((seed, epoch)).permutation(len(places))
        places = [places[i] for i in order]
    windows = [
        {"places": places[start : start + WINDOW], "draw": None if seed is None else (seed, epoch, start + 1)}
        for start in range(0, len(places), WINDOW)
    ]
    return datasets.IterableDataset.from_generator(_window_rows, gen_kwargs={"windows": windows})


def stream_records(rows: IterableDataset) -> Iterator[Example]:
    """Yield the records of a stream; ``rows.state_dict()`` is the position after the last one."""
    return map(record_from, rows)


def _places(file: Path) -> list[_Place]:
    if file.suffix != ".parquet":
        return [(str(file), 0)]
    with _open_parquet(file) as opened:
        return [(str(file), group) for group in range(opened.num_row_groups)]


def _window_rows(windows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for window in windows:
        rng = None if window["draw"] is None else np.random.default_rng(window["draw"])
        parquet = window["places"][0][0].endswith(".parquet")
        yield from (_grouped_rows if parquet else _sequential_rows)(window["places"], rng)


def _grouped_rows(places: list[_Place], rng: np.random.Generator | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of row groups. They are shuffled as columns, so that few rows at a time are Python's."""
    with contextlib.ExitStack() as stack:
        names = {name for name, _ in places}
        files = {name: stack.enter_context(_open_parquet(Path(name))) for name in names}
        tables = (_read_group(files[name], group) for name, group in places)
        if rng is None:
            for table in tables:
                yield from table.to_pylist()
            return
        window = pa.concat_tables(tables, promote_options="default")
    for rows in window.take(rng.permutation(len(window))).to_batches(max_chunksize=GROUP_ROWS):
        yield from rows.to_pylist()


def _sequential_rows(places: list[_Place], rng: np.random.Generator | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of tars and JSONL files, shuffled a thousand at a time."""
    waiting: list[dict[str, Any]] = []
    for name, _ in places:
        for row in iter_records(Path(name)):
            if isinstance(row, Reject):
                raise DataError(f"{row.where}: {row.reason}; `data check --fix` removes such rows")
            if rng is None:
                yield to_row(row)
                continue
            waiting.append(to_row(row))
            if len(waiting) == WINDOW * GROUP_ROWS:
                yield from (waiting[i] for i in rng.permutation(len(waiting)))
                waiting = []
    if rng is not None:
        yield from (waiting[i] for i in rng.permutation(len(waiting)))
