"""The manifest of a dataset's folder: its counts, and the files that it was made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import hash_file, write_json
from ziya_visual.data.dataset import dataset_files

_OURS = re.compile(r"records.*|(rejects|fixes)\.jsonl|manifest\.json|train|heldout")


def refuse_foreign(out: Path, source: Path) -> None:
    """Refuse to replace a folder that is not an earlier dataset, or that holds the input.

    Raises:
        ConfigError: the folder must not be replaced.
    """
    if out.exists() and not (out.is_dir() and all(_OURS.fullmatch(entry.name) for entry in out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an earlier dataset; name another folder")
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ConfigError(f"{out}: is or holds the input, {source}; name another folder")


def write_manifest(
    folder: Path,
    *,
    records: int,
    rejects: int,
    by_task_and_lang: Mapping[str, int],
    made_by: str,
    inputs: Iterable[Path | None],
) -> dict[str, Any]:
    """Write and return ``manifest.json``: counts, and SHA-256 of the dataset's files and its inputs."""
    manifest = {
        "records": records,
        "rejects": rejects,
        "by_task_and_lang": dict(sorted(by_task_and_lang.items())),
        "made_by": made_by,
        "version": version("ziya-visual"),
        "files": {file.name: hash_file(file) for file in dataset_files(folder)},
        "inputs": {str(file): hash_file(file) for path in inputs if (file := _file_of(path)) is not None},
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _file_of(path: Path | None) -> Path | None:
    """Return the file that identifies an input: itself, or the manifest of a dataset's folder."""
    if path is not None and path.is_dir():
        path /= "manifest.json"
    return path if path is not None and path.is_file() else None
