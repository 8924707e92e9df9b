"""A tiny checkpoint that the tests of exporting share."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny, tiny_tokenizer

from ziya_visual.model.checkpoint import save_checkpoint


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def llama(tokenizer: Any, tmp_path_factory: Any) -> tuple[Any, Path]:
    """A model in memory and its checkpoint; read only."""
    parts = tiny("llama", tokenizer)
    folder = tmp_path_factory.mktemp("llama") / "checkpoint"
    save_checkpoint(folder, model=parts[0], alignment=parts[1], processor=parts[2])
    return parts, folder
