"""What a recipe may start from."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.recipe import Recipe
from ziya_visual.data.packing import text_batch
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.train.run import build_model


def recipe(checkpoint: Path, **changes: Any) -> Recipe:
    stage = {
        "name": "align",
        "steps": 1,
        "images_per_step": 2,
        "texts_per_image": 1,
        "tasks": {"caption": 1.0},
    }
    stage |= {"trains": ["qformer"], "learning_rate": 1e-3}
    model, data = {"checkpoint": checkpoint}, {"path": [checkpoint]}
    return Recipe.model_validate(
        {"name": "r", "out": checkpoint, "model": model, "data": data, "stages": [stage], **changes}
    )


def test_a_stock_checkpoint_gets_a_new_alignment(tmp_path: Path) -> None:
    tiny.blip2_folder(tmp_path / "stock")
    built = build_model(recipe(tmp_path / "stock"))
    model, alignment, processor = built.model, built.alignment, built.processor
    again = build_model(recipe(tmp_path / "stock")).alignment
    assert torch.equal(alignment.text_projection.weight, again.text_projection.weight)
    freeze_all_but(model, alignment, ["qformer", "alignment"])
    ids, mask = map(torch.from_numpy, text_batch(["红色", "ring"], limit=8, chat=processor.chat))
    embeds = model.encode_images(processor.pixels([tiny.picture(), tiny.picture(1)]))
    alignment.matching_logits(model, embeds, ids, mask).sum().backward()
    assert alignment.itm_head.weight.grad is not None


def test_an_instruction_aware_checkpoint_is_for_use_alone(tmp_path: Path) -> None:
    tiny.instructblip_folder(tmp_path / "stock")
    with pytest.raises(ConfigError, match="its Q-Former reads the question, which is supported for use only"):
        build_model(recipe(tmp_path / "stock"))


def test_an_adapter_needs_a_base_with_an_alignment(tmp_path: Path) -> None:
    tiny.blip2_folder(tmp_path / "stock")
    with pytest.raises(ConfigError, match="save: adapter needs a base with an alignment"):
        build_model(recipe(tmp_path / "stock", save="adapter"))


@pytest.mark.parametrize(("stored", "precision", "kept"), [
    (torch.bfloat16, "bf16", torch.bfloat16),
    (torch.bfloat16, "fp32", torch.float32),
    (torch.float16, "bf16", torch.float32),
    (torch.float32, "bf16", torch.float32),
])  # fmt: skip
def test_only_a_frozen_language_model_stays_in_bfloat16(
    tmp_path: Path, stored: torch.dtype, precision: str, kept: torch.dtype
) -> None:
    tiny.blip2().to(stored).save_pretrained(tmp_path)
    tiny.tokenizer(image=True).save_pretrained(tmp_path)
    built = build_model(recipe(tmp_path, precision=precision))
    add_lora(built.model, rank=2, alpha=4)
    dtypes = {name: p.dtype for name, p in built.named_parameters()}
    frozen = {name for name in dtypes if name.startswith("language_model.") and "lora_" not in name}
    assert {dtypes[name] for name in frozen} == {kept}
    assert {dtypes[name] for name in dtypes.keys() - frozen} == {torch.float32}
    made = recipe(tmp_path, precision=precision)
    assert {p.dtype for p in build_model(made, meta=True).model.language_model.parameters()} == {kept}
