"""Records as a stream of Hugging Face ``datasets``: little memory, any order, exactly the rest after a stop.

``datasets`` fills a buffer to shuffle, and what is in it when a stream stops is lost to the resumed one. Here
the order is a function of seed and epoch: row groups of all files are drawn into windows, and rows within a
window. A window is a shard to ``datasets``, which keeps the place (``state_dict``), and gives each worker and
each machine (``split_dataset_by_node``) windows of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import (
    GROUP_ROWS,
    checked,
    dataset_files,
    iter_records,
    open_parquet,
    read_group,
    to_row,
)
from ziya_visual.data.formats import Reject

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
        rng = None if window["draw"] is None else np.random.default_rng(window["draw"])
        first = Path(window["places"][0][0])
        yield from (
            _groups(window["places"], rng) if first.suffix == ".parquet" else _pieces(window["places"], rng)
        )


def _groups(places: list[_Place], rng: np.random.Generator | None) -> Iterator[dict[str, Any]]:
    """The rows of some row groups. They are drawn as columns, for few rows at a time are Python's."""
    with contextlib.ExitStack() as opened:
        files = {
            name: opened.enter_context(open_parquet(Path(name))) for name in {name for name, _ in places}
        }
        tables = (read_group(files[name], group) for name, group in places)
        if rng is None:
            for table in tables:
                yield from table.to_pylist()
            return
        window = pa.concat_tables(tables, promote_options="default")
    for some in window.take(rng.permutation(len(window))).to_batches(max_chunksize=GROUP_ROWS):
        yield from some.to_pylist()


def _pieces(places: list[_Place], rng: np.random.Generator | None) -> Iterator[dict[str, Any]]:
    """The rows of tars and JSONL, drawn a thousand at a time."""
    waiting: list[dict[str, Any]] = []
    for name, _ in places:
        for found in iter_records(Path(name)):
            if isinstance(found, Reject):
                raise DataError(f"{found.where}: {found.reason}; `data check --fix` takes such rows out")
            if rng is None:
                yield to_row(found)
                continue
            waiting.append(to_row(found))
            if len(waiting) == WINDOW * GROUP_ROWS:
                yield from (waiting[i] for i in rng.permutation(len(waiting)))
                waiting = []
    if rng is not None:
        yield from (waiting[i] for i in rng.permutation(len(waiting)))


def records(rows: IterableDataset) -> Iterator[Example]:
    """The records of a stream; ``rows.state_dict()`` is the place behind the last one that was given."""
    return map(checked, rows)
