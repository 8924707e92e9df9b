"""The folder that the doctor's tests share."""

from pathlib import Path

import pytest
from doctor_cases import COLORS, RECIPE, examples
from PIL import Image
from tiny_models import tiny

from ziya_visual.core.files import write_records
from ziya_visual.model.checkpoint import save_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a tiny checkpoint, four images with texts about them, and a recipe for both."""
    folder = tmp_path_factory.mktemp("doctor")
    model, alignment, processor = tiny()
    save_checkpoint(folder / "checkpoint", model=model, alignment=alignment, processor=processor)
    for color, rgb in COLORS.items():
        Image.new("RGB", (20, 20), rgb).save(folder / f"{color}.png")
    write_records(folder / "data.jsonl", examples(folder))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder
