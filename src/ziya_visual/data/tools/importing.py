"""``data import``: turn published files into a dataset, and list the rows that cannot be read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import atomic_dir, write_jsonl
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import Form, write_dataset
from ziya_visual.data.formats import FORMATS, Parsed, Reject, Source
from ziya_visual.data.tools.manifest import refuse_foreign, write_manifest


def rows_of(
    name: str, path: Path, *, lang: str | None = None, limit: int | None = None, **options: Any
) -> Iterator[Parsed]:
    """Yield at most ``limit`` rows of a file or folder of the format ``name``.

    Args:
        name: a key of :data:`~ziya_visual.data.formats.FORMATS`.
        path: what the format's row in ``docs/data.md`` names.
        lang: language of the texts; by default the format's.
        limit: largest number of rows.
        options: ``images``, ``annotations``, ``split`` and ``columns`` of :class:`Source`.

    Raises:
        ConfigError: there is no such format.
        DataError: the file cannot be read at all.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}{nearest(name, FORMATS)}")
    form = FORMATS[name]
    return itertools.islice(form.read(Source(name=name, path=path, lang=lang or form.lang, **options)), limit)


def import_dataset(
    name: str, path: Path, *, out: Path, form: Form = "parquet", **options: Any
) -> dict[str, Any]:
    """Write the folder ``out``: ``records*``, ``rejects.jsonl`` and ``manifest.json``.

    Args:
        name: a key of :data:`~ziya_visual.data.formats.FORMATS`.
        path: what the format's row in ``docs/data.md`` names.
        out: a new folder, or an earlier import, which is replaced once everything is read.
        form: Parquet and tars hold the images, JSONL their paths.
        options: those of :func:`rows_of`.

    Returns:
        The manifest.

    Raises:
        ConfigError: there is no such format, or ``out`` holds something else.
        DataError: no row can be used.
    """
    refuse_foreign(out, path)
    rejects: list[Reject] = []
    counts: Counter[str] = Counter()
    with atomic_dir(out) as aside, log.progress(f"import {name}", options.get("limit")) as bar:

        def usable() -> Iterator[Example]:
            for row in rows_of(name, path, **options):
                bar.advance()
                if isinstance(row, Reject):
                    rejects.append(row)
                    continue
                counts[f"{row.task}/{row.lang}"] += 1
                yield row

        records = write_dataset(aside, usable(), form)
        if not records:
            first = f"; the first: {rejects[0].where}: {rejects[0].reason}" if rejects else ""
            raise DataError(f"{path}: none of {len(rejects)} rows can be used{first}")
        write_jsonl(aside / "rejects.jsonl", map(asdict, rejects))
        return write_manifest(
            aside,
            records=records,
            rejects=len(rejects),
            by_task_and_lang=counts,
            made_by=f"data import {name} {path}",
            inputs=[path, options.get("annotations")],
        )
