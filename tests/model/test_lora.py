"""Adapters: LoRA's laws on every architecture, blocks and rates as told, and a save that loses nothing."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import LANGUAGE_MODELS, logits, tiny, tiny_tokenizer
from transformers import Blip2ForConditionalGeneration

from ziya_visual.core.errors import CheckpointError, ConfigError
from ziya_visual.infer.engine import open_model
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.model.lora import (
    add_lora,
    freeze_all_but,
    linear_layers,
    load_adapter,
    merge_lora,
    parameters_by_part,
    parameters_for_rule,
    save_adapter,
)
from ziya_visual.train.optimizer import Optimizer

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
TARGETS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "opt": ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"],
    "gpt_neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama(tokenizer: Any) -> Any:
    return tiny("llama", tokenizer)


def disturb(parameters: Any) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("architecture", list(LANGUAGE_MODELS))
def test_lora_obeys_its_laws(architecture: str, tokenizer: Any) -> None:
    model, alignment, processor = tiny(architecture, tokenizer)
    kinds = {name.rsplit(".", 1)[-1] for name in linear_layers(model.language_model)}
    assert sorted(kinds) == TARGETS[architecture]
    head = model.language_model.get_output_embeddings()
    before, plain = logits(model, processor), {name for name, _ in model.named_parameters()}
    add_lora(model, rank=2, alpha=4)
    assert torch.equal(logits(model, processor), before), "zero at the start"
    assert model.language_model.get_output_embeddings() is head, "the head is not wrapped"
    lora = parameters_by_part(model, alignment)["lora"]
    assert len(lora) == 2 * 3 * len(TARGETS[architecture]) + (2 * 3 if architecture == "gpt2" else 0)
    disturb(lora.values())
    adapted = logits(model, processor)
    assert (adapted - before).abs().max() > 1e-3
    merge_lora(model)
    merged = logits(model, processor)
    assert (merged - adapted).abs().max() <= 1e-5, "merged as unmerged"
    assert {name for name, _ in model.named_parameters()} == plain
    merge_lora(model)
    assert torch.equal(logits(model, processor), merged), "twice as once"


def test_blocks_learn_and_nothing_else_does(llama: Any) -> None:
    model, alignment, _ = copy.deepcopy(llama)
    add_lora(model, rank=2, alpha=4)
    table = freeze_all_but(model, alignment, ["vision[-2:]", "lora[0:1]", "projection"])
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    vision = {name for name in learning if name.startswith("vision_model")}
    assert {name.split(".")[3] for name in vision} == {"1", "2"}
    assert {name.split(".")[5] for name in learning if "lora_" in name} == {"0"}
    assert table["vision[-2:]"] == sum(
        p.numel() for layer in model.vision_model.encoder.layers[1:] for p in layer.parameters()
    )
    layers = model.vision_model.encoder.layers
    assert [layer.training for layer in layers] == [False, True, True]
    assert not model.vision_model.training
    assert not model.qformer.training
    with pytest.raises(ConfigError, match=r"vision\[5:\] selects nothing: vision has 3 blocks"):
        freeze_all_but(model, alignment, ["vision[5:]"])


def test_each_group_has_its_learning_rate(llama: Any) -> None:
    model, alignment, _ = copy.deepcopy(llama)
    freeze_all_but(model, alignment, ["vision", "projection"])
    parts = parameters_by_part(model, alignment)
    before = {name: p.clone() for part in parts.values() for name, p in part.items()}
    optimizer = Optimizer(
        model.named_parameters(), weight_decay=0.0, scales=dict.fromkeys(parts["vision"].values(), 0.01)
    )
    loss = model.language_projection.weight.sum() + sum(p.sum() for p in model.vision_model.parameters())
    assert optimizer.step(loss, lr=0.1)
    moved = {
        name: (p - before[name]).abs().max().item() for part in parts.values() for name, p in part.items()
    }
    bias = "model.vision_model.encoder.layers.0.mlp.fc1.bias"  # AdamW's first step is the rate itself
    assert moved[bias] == pytest.approx(0.001, rel=1e-3)
    weights = "model.language_projection.weight", "model.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert moved[weights[0]] > 30 * moved[weights[1]] > 0
    assert moved["model.qformer.layernorm.weight"] == 0


RULES = ["qformer", "query_tokens", "projection", "alignment", "lora", "vision[-1:]"]


@pytest.fixture
def saved(llama: Any, tmp_path: Path) -> tuple[Any, Path]:
    """A trained model in memory, and its adapter on disk beside its base."""
    model, alignment, processor = copy.deepcopy(llama)
    save_checkpoint(tmp_path / "base", model=model, alignment=alignment, processor=processor)
    torch.manual_seed(1)
    add_lora(model, rank=2, alpha=4)
    parts = parameters_by_part(model, alignment)
    disturb(p for rule in RULES for p in parameters_for_rule(parts, rule).values())
    save_adapter(
        tmp_path / "adapter", model=model, alignment=alignment, trained=RULES, base=tmp_path / "base"
    )
    return (model, alignment, processor), tmp_path / "adapter"


def test_base_and_adapter_are_all_that_is_needed(saved: Any, tmp_path: Path) -> None:
    (model, alignment, _), folder = saved
    base = load_checkpoint(tmp_path / "base")
    load_adapter(folder, model=base[0], alignment=base[1])
    for one, other in ((model, base[0]), (alignment, base[1])):
        state = other.state_dict()
        assert state.keys() == one.state_dict().keys()
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, state[name]), name
    names = set(load_file(folder / "trained.safetensors"))
    assert any(name.startswith("model.vision_model.encoder.layers.2.") for name in names)
    assert not any("language_model" in name or "layers.1." in name for name in names)


def test_an_adapter_folder_opens_like_a_checkpoint(saved: Any, tmp_path: Path) -> None:
    (model, _, processor), _ = saved
    (tmp_path / "moved").mkdir()
    for name in ("base", "adapter"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    again, _, _ = load_checkpoint(tmp_path / "moved" / "adapter")
    assert (logits(again, processor) - logits(model, processor)).abs().max() <= 1e-5
    assert not any("lora_" in name for name, _ in again.named_parameters())
    assert open_model(tmp_path / "moved" / "adapter").format.eos_id == processor.chat.eos_id


def test_stock_peft_opens_the_lora(saved: Any, tmp_path: Path) -> None:
    (model, _, processor), _ = saved
    only = copy.deepcopy(model)
    base, _, _ = load_checkpoint(tmp_path / "base")
    for name, parameter in only.named_parameters():
        if "language_model" not in name:
            parameter.data.copy_(dict(base.named_parameters())[name])
    stock = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "base")
    wrapped = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
    assert (logits(wrapped, processor) - logits(only, processor)).abs().max() <= 1e-5


def test_a_peft_adapter_beside_a_checkpoint_is_opened_and_merged(llama: Any, tmp_path: Path) -> None:
    model, alignment, processor = llama
    save_checkpoint(tmp_path / "c", model=model, alignment=alignment, processor=processor)
    stock = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "c")
    config = LoraConfig(r=2, target_modules=r"language_model\..*\.(q_proj|fc1)", init_lora_weights=False)
    wrapped = get_peft_model(stock, config).eval()
    wrapped.save_pretrained(tmp_path / "peft")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "peft" / name, tmp_path / "c")
    again, alignment, processor = load_checkpoint(tmp_path / "c")
    merge_lora(again)
    save_checkpoint(tmp_path / "d", model=again, alignment=alignment, processor=processor)
    merged, info = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "d", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (logits(merged, processor) - logits(wrapped, processor)).abs().max() <= 1e-5


def _without(path: Path, key: str) -> None:
    state = load_file(path)
    del state[next(name for name in state if key in name)]
    save_file(state, path)


def _added(path: Path) -> None:
    save_file({**load_file(path), "model.extra": torch.zeros(1)}, path)


def _reshaped(path: Path) -> None:
    state = load_file(path)
    save_file({**state, "model.query_tokens": torch.zeros(1, 7, 32)}, path)


def _other_base(path: Path) -> None:
    path = path.parent.parent / "base" / "model.safetensors"
    state = load_file(path)
    save_file({**state, "query_tokens": state["query_tokens"] + 1}, path, metadata={"format": "pt"})


def _no_base(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"base": "../elsewhere"}))


@pytest.mark.parametrize(
    ("name", "damage", "text"),
    [
        ("adapter_model.safetensors", lambda path: _without(path, "lora_A"), "1 keys missing"),
        ("trained.safetensors", lambda path: _without(path, "query_tokens"), "1 keys missing"),
        ("trained.safetensors", _added, r"1 keys unexpected \(such as model.extra\)"),
        (
            "trained.safetensors",
            _reshaped,
            r"model.query_tokens is of shape \[1, 7, 32\], expected \[1, 4, 32\]",
        ),
        (
            "trained.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:900]),
            "its 900 bytes are not",
        ),
        ("adapter_model.safetensors", Path.unlink, "adapter_model.safetensors: its 0 bytes"),
        ("adapter_config.json", lambda path: path.write_text("{}"), "no usable LoRA settings"),
        ("adapter.json", lambda path: path.write_text("[]"), "expected an object with base"),
        (
            "adapter.json",
            _other_base,
            r"base/model.safetensors: SHA-256 is \w+, expected \w+: .* was trained on a different base",
        ),
        ("adapter.json", _no_base, "elsewhere does not exist"),
    ],
)
def test_nothing_is_dropped_silently(saved: Any, name: str, damage: Any, text: str) -> None:
    _, folder = saved
    damage(folder / name)
    with pytest.raises(CheckpointError, match=text) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
