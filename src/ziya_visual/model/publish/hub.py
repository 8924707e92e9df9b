"""Upload of an exported folder to a hub of Hugging Face's kind."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi

from ziya_visual.core.errors import ConfigError, EndpointError, one_line

TOKEN = "HF_TOKEN"


def token() -> str:
    """The token of the environment.

    Raises:
        ConfigError: there is none; nothing else is looked at, and it is never written anywhere.
    """
    found = os.environ.get(TOKEN, "").strip()
    if not found:
        raise ConfigError(f"--push needs a token with write access in the environment variable {TOKEN}")
    return found


def push(folder: Path, repo: str, token: str) -> str:
    """Upload a folder as one commit; a repository that is not there yet is made, private.

    Returns:
        The commit's address.

    Raises:
        EndpointError: the hub refuses it or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Upload {folder.name}")
    except Exception as error:  # which HTTP library raises what is the hub client's own affair
        raise EndpointError(
            f"--push {repo}: {one_line(error)}; {folder} is complete, push it again"
        ) from error
    return str(commit.commit_url)
