"""What a dataset's folder says of itself: how many records, of what, made of which files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core.io import hash_file
from ziya_visual.data.store import dataset_files


def manifest(
    folder: Path,
    *,
    records: int,
    rejects: int,
    by_task_and_lang: Mapping[str, int],
    made_by: str,
    inputs: Iterable[Path | None],
    **more: Any,
) -> dict[str, Any]:
    """A JSON-ready manifest: counts, and SHA-256 of the files in ``folder`` and of those it is made of."""
    return {
        "records": records,
        "rejects": rejects,
        "by_task_and_lang": dict(sorted(by_task_and_lang.items())),
        "made_by": made_by,
        "version": version("ziya-visual"),
        **more,
        "files": {file.name: hash_file(file) for file in dataset_files(folder)},
        "inputs": {str(file): hash_file(file) for path in inputs if (file := _file_of(path)) is not None},
    }


def _file_of(path: Path | None) -> Path | None:
    """What stands for an input: the file itself, or the manifest of a dataset's folder."""
    if path is not None and path.is_dir():
        path /= "manifest.json"
    return path if path is not None and path.is_file() else None
