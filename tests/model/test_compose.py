"""Pictures of another size: what stock computes when it interpolates at every call."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny

from ziya_visual.core.errors import ConfigError
from ziya_visual.model.build.compose import set_image_size
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("side", [24, 32])
def test_states_are_those_of_stock_interpolation(side: int, tmp_path: Path) -> None:
    model, alignment, processor = tiny()
    pixels = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        wanted = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    set_image_size(model, side)
    processor.image_size = side
    save_checkpoint(tmp_path, model=model, alignment=alignment, processor=processor)
    opened, _, read = load_checkpoint(tmp_path)
    assert read.image_size == side
    for network in (model, opened):
        with torch.inference_mode():
            assert torch.allclose(network.encode_images(pixels), wanted, atol=1e-6)


def test_its_own_size_changes_nothing() -> None:
    model, _, _ = tiny()
    before = model.vision_model.embeddings.position_embedding
    set_image_size(model, 16)
    assert model.vision_model.embeddings.position_embedding is before


def test_a_size_that_patches_do_not_fill_is_refused() -> None:
    model, _, _ = tiny()
    with pytest.raises(
        ConfigError, match=r"model.image_size: 20 is not a multiple of the ViT's patch size, 8 pixels"
    ):
        set_image_size(model, 20)
