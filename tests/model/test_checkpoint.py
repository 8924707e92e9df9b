"""A checkpoint is a stock one: same logits there and back, and damage ends in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import logits, tiny
from transformers import Blip2ForConditionalGeneration

from ziya_visual.core.errors import CheckpointError
from ziya_visual.model.build.weights import open_file
from ziya_visual.model.checkpoint import ALIGNMENT, load_checkpoint, save_checkpoint
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor


@pytest.fixture(scope="module")
def parts() -> tuple[ZiyaVisualModel, Alignment, ZiyaProcessor]:
    return tiny()


def test_stock_opens_what_we_save_and_we_what_stock_saves(parts: Any, tmp_path: Path) -> None:
    model, alignment, processor = parts
    save_checkpoint(tmp_path / "ours", model=model, alignment=alignment, processor=processor)
    stock, info = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = logits(model, processor)
    assert (logits(stock, processor) - expected).abs().max() <= 1e-5
    stock.save_pretrained(tmp_path / "ours")
    again, alignment_again, processor_again = load_checkpoint(tmp_path / "ours")
    assert (logits(again, processor_again) - expected).abs().max() <= 1e-5
    for name, tensor in alignment.state_dict().items():
        assert torch.equal(tensor, alignment_again.state_dict()[name]), name


def test_adapters_start_as_nothing_and_are_merged_on_saving(parts: Any, tmp_path: Path) -> None:
    import copy

    model, alignment, processor = (copy.deepcopy(part) for part in parts[:2]), None, parts[2]
    network, alignment = model
    before = logits(network, processor)
    add_lora(network, rank=2, alpha=4)
    assert torch.equal(logits(network, processor), before)
    table = freeze_all_but(network, alignment, ["lora", "qformer"])
    assert table["lora"] == sum(p.numel() for n, p in network.named_parameters() if "lora_" in n) > 0
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = logits(network.eval(), processor)
    assert (adapted - before).abs().max() > 1e-3
    save_checkpoint(tmp_path / "c", model=network, alignment=alignment, processor=processor)
    stock = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "c")
    assert (logits(stock, processor) - adapted).abs().max() <= 1e-5
    assert torch.equal(logits(network, processor), adapted), "saving leaves the model in memory as it was"


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(parts: Any, tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path / "c", model=parts[0], alignment=parts[1], processor=parts[2])
    (tmp_path / "c" / damage).unlink()
    with pytest.raises(CheckpointError, match=damage.replace(".", r"\.")):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("damage", ["model.safetensors", ALIGNMENT])
def test_a_truncated_file_is_one_line(parts: Any, tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path / "c", model=parts[0], alignment=parts[1], processor=parts[2])
    path = tmp_path / "c" / damage
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=rf"{damage}: its 5000 bytes are not a complete") as caught:
        load_checkpoint(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_a_dtype_that_stock_does_not_know_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2, dtype=torch.float8_e8m0fnu)}, path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: .* dtype 'F8_E8M0'"):
        open_file(path)


def test_a_foreign_key_is_refused(parts: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_checkpoint(tmp_path / "c", model=parts[0], alignment=parts[1], processor=parts[2])
    state = load_file(tmp_path / "c" / ALIGNMENT)
    state["extra"] = state.pop("lm_bias")
    save_file(state, tmp_path / "c" / ALIGNMENT)
    with pytest.raises(CheckpointError, match=r"1 keys missing \(such as lm_bias\), 1 keys unexpected"):
        load_checkpoint(tmp_path / "c")
