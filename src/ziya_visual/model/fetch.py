"""Where a checkpoint is: a local folder, or a repository of the Hugging Face hub, fetched once."""

from __future__ import annotations

import re
from pathlib import Path

from ziya_visual.core.errors import CheckpointError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SETTINGS = ["*.json", "*.model", "*.txt", "*.jinja"]


def local_folder(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint given as a path or as a hub id, such as ``Salesforce/blip2-opt-2.7b``.

    Of a repository with both safetensors and pickles the safetensors are fetched alone.

    Raises:
        CheckpointError: there is no such folder, and no such repository can be fetched.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(str(checkpoint)):
        raise CheckpointError(f"{checkpoint}: no such folder, and no hub id of the form owner/name")
    from httpx2 import HTTPError  # the hub's own client's
    from huggingface_hub import list_repo_files, snapshot_download

    name = str(checkpoint)
    try:
        files = list_repo_files(name)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
        return Path(snapshot_download(name, allow_patterns=[*SETTINGS, weights]))
    except (OSError, ValueError, HTTPError) as error:
        try:
            return Path(snapshot_download(name, local_files_only=True))  # fetched before, now offline
        except (OSError, ValueError):
            raise CheckpointError(
                f"{name}: no such folder, and the hub does not give it ({' '.join(str(error).split())[:160]})"
            ) from error
