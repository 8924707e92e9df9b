"""What a dataset's folder says of itself: how many records, of what, made of which files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import hash_file
from ziya_visual.data.dataset import dataset_files

_OURS = re.compile(r"records.*|(rejects|fixes)\.jsonl|manifest\.json|train|heldout")


def refuse_foreign(out: Path, source: Path) -> None:
    """Refuse to replace a folder that is not of ours, or that is what is read.

    Raises:
        ConfigError: it is.
    """
    if out.exists() and not (out.is_dir() and all(_OURS.fullmatch(entry.name) for entry in out.iterdir())):
        raise ConfigError(f"{out}: exists and is no earlier dataset; name another folder")
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ConfigError(f"{out}: is or holds what is read, {source}; name another folder")


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
