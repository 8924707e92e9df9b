"""The doctor on checkpoint folders: it reads only headers and names what is damaged."""

import json
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2VisionConfig, LlamaConfig

from ziya_visual.core.files import write_json
from ziya_visual.doctor import examine
from ziya_visual.doctor.checkpoint import examine_checkpoint
from ziya_visual.doctor.machine import examine_machine
from ziya_visual.model.checkpoint import ALIGNMENT, load_checkpoint


def test_parameters_are_the_real_models(folder: Path) -> None:
    facts = examine_checkpoint(folder / "checkpoint", examine_machine()).facts
    model, alignment, _ = load_checkpoint(folder / "checkpoint")
    modules = {
        "vision": model.vision_model,
        "qformer": model.qformer,
        "projection": model.language_projection,
        "language_model": model.language_model,
        "alignment": alignment,
    }
    expected = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    expected["query_tokens"] = model.query_tokens.numel()
    assert facts["parameters"] == expected
    assert facts["layout"] == "ziya-visual"
    assert facts["keys"] == "compared"
    assert facts["chat_format"] == "<human>:…\n<bot>:"
    assert facts["memory_to_run"]["fp32"]["weights_bytes"] == 4 * sum(expected.values())


def test_a_large_checkpoint_is_examined_without_its_weights(tmp_path: Path) -> None:
    config = Blip2Config(
        text_config=LlamaConfig(hidden_size=2048, num_hidden_layers=16, intermediate_size=5632).to_dict(),
        vision_config=Blip2VisionConfig(num_hidden_layers=2).to_dict(),
        image_token_index=3,
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        state = Blip2ForConditionalGeneration(config).state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:  # a file with a hole, as large as the weights
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = psutil.Process().memory_info().rss
    report = examine_checkpoint(tmp_path, examine_machine())
    assert end > 3e9
    assert psutil.Process().memory_info().rss - before < 200e6
    assert report.problems == []
    assert report.facts["layout"] == "blip-2"
    assert sum(report.facts["parameters"].values()) == end // 4


@pytest.mark.parametrize("layout", ["blip-2", "instructblip", "ziya", "sharded"])
def test_other_layouts_are_told_apart(tmp_path: Path, layout: str) -> None:
    makers: dict[str, Any] = {"instructblip": tiny.instructblip_folder, "ziya": tiny.ziya_folder}
    if layout == "sharded":
        model = tiny.blip2_folder(tmp_path / "c", max_shard_size="50KB")
    else:
        model = makers.get(layout, tiny.blip2_folder)(tmp_path / "c")
    counted = sum(p.numel() for p in model.parameters())
    if layout == "ziya":
        counted -= sum(p.numel() for p in model.language_model.parameters())
    report = examine_checkpoint(tmp_path / "c", examine_machine())
    assert report.problems == []
    assert sum(report.facts["parameters"].values()) == counted
    assert report.facts["layout"].startswith({"sharded": "blip-2"}.get(layout, layout))
    if layout == "sharded":
        shard = min((tmp_path / "c").glob("model-*.safetensors"))
        shard.unlink()
        (line,) = examine_checkpoint(tmp_path / "c", examine_machine()).problems
        assert shard.name in line
        assert "1 of 9 shards not found" in line


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how in ("truncated", "alignment truncated"):
        path = weights if how == "truncated" else folder / ALIGNMENT
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "no config":
        config.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how in ("garbage", "no state"):
        weights.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"garbage")
        if how == "no state":
            torch.save([1, 2], folder / "pytorch_model.bin")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "other width":
        stored = json.loads(config.read_text())
        write_json(config, {**stored, "num_query_tokens": 5})
    elif how == "other kind":
        write_json(config, {"model_type": "resnet"})
    else:
        state = load_file(weights)
        state["foreign"] = state.pop("language_projection.bias")
        save_file(state, weights)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("truncated", [r"model\.safetensors: its 5000 bytes are not a complete safetensors file"]),
        (
            "alignment truncated",
            [r"alignment\.safetensors: its 5000 bytes are not a complete safetensors file"],
        ),
        ("no config", [r"no config\.json;"]),
        ("no weights", [r"no weights there; expected model\.safetensors"]),
        ("garbage", [r"pytorch_model\.bin: cannot be read as weights"]),
        ("no state", [r"pytorch_model\.bin: a pickle of list"]),
        ("no tokenizer", [r"the tokenizer: "]),
        ("other width", [r"'query_tokens': found \[1, 4, 32\], expected \[1, 5, 32\]"]),
        ("other kind", [r"config\.json: not a supported configuration"]),
        (
            "foreign",
            [r"1 keys missing, such as 'language_projection\.bias'", r"1 keys unknown .* such as 'foreign'"],
        ),
    ],
)
def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path, how: str, expected: list[str]) -> None:
    broken = tmp_path / "c"
    broken.mkdir()
    for file in (folder / "checkpoint").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    damage(broken, how)
    problems = examine(broken)["problems"]
    assert len(problems) == len(expected), problems
    for line, pattern in zip(problems, expected, strict=True):
        assert re.search(pattern, line), line
        assert "\n" not in line
