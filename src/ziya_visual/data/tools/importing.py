"""``data import``, and the manifest that every dataset gets: its counts and the files it was made from."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import atomic_dir, hash_file, write_json, write_jsonl
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import Form, dataset_files, write_dataset
from ziya_visual.data.formats import FORMATS, Parsed, Reject, Source

_OURS = re.compile(r"records.*|(rejects|fixes)\.jsonl|manifest\.json|train|heldout")


def rows_of(
    name: str, path: Path, *, lang: str | None = None, limit: int | None = None, **options: Any
) -> Iterator[Parsed]:
    """Yield at most ``limit`` rows of a file or folder of the format ``name``; see :func:`import_dataset`."""
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}{nearest(name, FORMATS)}")
    form = FORMATS[name]
    return itertools.islice(form.read(Source(name=name, path=path, lang=lang or form.lang, **options)), limit)


def import_dataset(
    name: str, path: Path, *, out: Path, form: Form = "parquet", **options: Any
) -> dict[str, Any]:
    """Write ``records*``, ``rejects.jsonl`` and ``manifest.json`` into a folder, and return the manifest.

    Args:
        name: a key of :data:`~ziya_visual.data.formats.FORMATS`.
        path: what the format's row in ``docs/data.md`` names.
        out: a new folder, or an earlier import, which is replaced once everything is read.
        form: Parquet and tars hold the images, JSONL their paths.
        options: ``lang`` if not the format's, ``limit`` of the rows, and ``images``, ``annotations``,
            ``split`` and ``columns`` of :class:`Source`.

    Raises:
        ConfigError: there is no such format, or ``out`` holds something else.
        DataError: a file cannot be read at all, or no row can be used.
    """
    refuse_foreign(out, path)
    rejects: list[Reject] = []
    with atomic_dir(out) as aside, log.progress(f"import {name}", options.get("limit")) as bar:

        def usable() -> Iterator[Example]:
            for row in rows_of(name, path, **options):
                bar.advance()
                if isinstance(row, Reject):
                    rejects.append(row)
                else:
                    yield row

        inputs = [path, options.get("annotations")]
        made_by = f"data import {name} {path}"
        manifest = write_counted(aside, usable(), form, rejects=rejects, made_by=made_by, inputs=inputs)
        if not manifest["records"]:
            first = f"; the first: {rejects[0].where}: {rejects[0].reason}" if rejects else ""
            raise DataError(f"{path}: none of {len(rejects)} rows can be used{first}")
        write_jsonl(aside / "rejects.jsonl", map(asdict, rejects))
    return manifest


def refuse_foreign(out: Path, source: Path) -> None:
    """Refuse to replace a folder that is not an earlier dataset, or that holds the input: ``ConfigError``."""
    if out.exists() and not (out.is_dir() and all(_OURS.fullmatch(entry.name) for entry in out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an earlier dataset; name another folder")
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ConfigError(f"{out}: is or holds the input, {source}; name another folder")


def write_counted(
    folder: Path,
    examples: Iterable[Example],
    form: Form,
    *,
    rejects: Sequence[Any],
    made_by: str,
    inputs: Iterable[Path | None],
) -> dict[str, Any]:
    """Write a dataset and, if it has a record, ``manifest.json``; return the manifest.

    The manifest holds counts, and SHA-256 of the dataset's files and its inputs. ``rejects`` may grow while
    the records are read.
    """
    counts: Counter[str] = Counter()

    def counted() -> Iterator[Example]:
        for example in examples:
            counts[f"{example.task}/{example.lang}"] += 1
            yield example

    records = write_dataset(folder, counted(), form)
    manifest = {
        "records": records,
        "rejects": len(rejects),
        "by_task_and_lang": dict(sorted(counts.items())),
        "made_by": made_by,
        "version": version("ziya-visual"),
        "files": {file.name: hash_file(file) for file in dataset_files(folder)},
        "inputs": {str(file): hash_file(file) for path in inputs if (file := _file_of(path)) is not None},
    }
    if records:
        write_json(folder / "manifest.json", manifest)
    return manifest


def _file_of(path: Path | None) -> Path | None:
    """Return the file that identifies an input: itself, or the manifest of a dataset's folder."""
    if path is not None and path.is_dir():
        path /= "manifest.json"
    return path if path is not None and path.is_file() else None
