"""Records as a stream of Hugging Face ``datasets``: little memory, any order, exactly the rest after a stop.

``datasets`` fills a buffer to shuffle, and what is in it when a stream stops is lost to the resumed one. Here
the order is a function of seed and epoch: row groups of all files are drawn into windows, and rows within a
window. A window is a shard to ``datasets``, which keeps the place (``state_dict``), and gives
each worker and each machine (``split_dataset_by_node``) windows of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from ziya_visual.core.records import Example
from ziya_visual.data.readers import Reject
from ziya_visual.data.store import checked, dataset_files, iter_records, open_parquet, read_group, to_row

if TYPE_CHECKING:
    from datasets import IterableDataset

WINDOW = 8  # row groups whose rows are mixed: about a thousand rows, 64 MB of pictures at most
_Place = tuple[str, int]  # a Parquet file and a row group of it; a tar or JSONL and 0, which are one piece


def stream(path: Path, *, seed: int | None = None, epoch: int = 0) -> IterableDataset:
    """The rows of a dataset (:data:`store.SCHEMA` as mappings) as ``datasets`` streams them.

    Args:
        path: as of :func:`store.iter_records`.
        seed: of the order; without, the order of the files.
        epoch: another order of the same rows. Tars and JSONL are read in one piece: their files are drawn,
            and rows among the thousand that follow each other.

    Raises:
        DataError: as :func:`store.iter_records`; while streaming, of a row that is no record: `data check` is
            where rows are sorted out.
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
    return datasets.IterableDataset.from_generator(_rows, gen_kwargs={"windows": windows})


def _places(file: Path) -> list[_Place]:
    if file.suffix != ".parquet":
        return [(str(file), 0)]
    with open_parquet(file) as opened:
        return [(str(file), group) for group in range(opened.num_row_groups)]


def _rows(windows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for window in windows:
        rows = _window(window["places"])
        if window["draw"] is None:
            yield from rows
        else:
            yield from _drawn(rows, np.random.default_rng(window["draw"]))


def _window(places: list[_Place]) -> Iterator[dict[str, Any]]:
    opened: dict[str, pq.ParquetFile] = {}
    for name, group in places:
        if not name.endswith(".parquet"):
            for found in iter_records(Path(name)):
                if isinstance(found, Reject):
                    _refuse(found.where, found.reason)
                else:
                    yield to_row(found)
            continue
        if name not in opened:
            opened[name] = open_parquet(Path(name))
        yield from read_group(opened[name], group)


def _refuse(where: str, reason: str) -> None:
    from ziya_visual.core.errors import DataError

    raise DataError(f"{where}: {reason}; `data check --fix` takes such rows out")


def _drawn(rows: Iterator[dict[str, Any]], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Rows in another order, a thousand at a time."""
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == 1024:
            yield from (waiting[i] for i in rng.permutation(1024))
            waiting = []
    yield from (waiting[i] for i in rng.permutation(len(waiting)))


def records(rows: IterableDataset) -> Iterator[Example]:
    """The records of a stream; ``rows.state_dict()`` is the place behind the last one that was given."""
    return map(checked, rows)
