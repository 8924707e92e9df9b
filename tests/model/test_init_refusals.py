"""What cannot be composed or opened ends in one line that names file and key, and leaves no folder."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config

from ziya_visual.core.errors import CheckpointError, ConfigError, ZiyaError
from ziya_visual.core.files import read_json, write_json
from ziya_visual.model.build.init import init
from ziya_visual.model.checkpoint import load_checkpoint


class Evil:
    """A pickle that would end the process."""

    def __reduce__(self) -> Any:
        return os.abort, ()


def change(path: Path, **settings: Any) -> None:
    write_json(path, {**read_json(path), **settings})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unsharded(folder: Path) -> None:
    """A stock BLIP-2 bridge in shards, one of which is away."""
    tiny.blip2("opt").save_pretrained(folder, max_shard_size="50KB")
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def without(folder: Path, key: str) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in state.items() if name != key}, folder / "model.safetensors")


def misnamed(folder: Path) -> None:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["visual_encoder.cls"] = torch.zeros(3)
    torch.save(state, folder / "pytorch_model.bin")


def reshaped(folder: Path) -> None:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["qformer.layernorm.weight"] = torch.zeros(5)
    torch.save(state, folder / "pytorch_model.bin")


def owns_image(folder: Path) -> None:
    tiny.tokenizer(image=True).save_pretrained(folder)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shard away": (
        lambda d: unsharded(d / "bridge"),
        r"1 of \d+ shards not found, such as model-00002",
    ),
    "truncated pickle": (lambda d: truncate(d / "bridge/pytorch_model.bin"), "cannot be read as weights"),
    "evil pickle": (
        lambda d: (d / "bridge/pytorch_model.bin").write_bytes(pickle.dumps(Evil())),
        r"pytorch_model\.bin: cannot be read as weights",
    ),
    "evil archive": (
        lambda d: torch.save(Evil(), d / "bridge/pytorch_model.bin"),
        "cannot be read as weights",
    ),
    "a list": (lambda d: torch.save([1], d / "bridge/pytorch_model.bin"), "a pickle of list, expected"),
    "a whole model": (
        lambda d: torch.save({"model": {}}, d / "bridge/pytorch_model.bin"),
        "expected a dictionary of tensors by name",
    ),
    "truncated": (lambda d: truncate(d / "lm/model.safetensors"), "are not a complete safetensors file"),
    "no weights": (lambda d: (d / "lm/model.safetensors").unlink(), r"lm: no weights there"),
    "a key away": (
        lambda d: without(d / "lm", "model.norm.weight"),
        r"1 keys missing \(such as language_model\.model\.norm\.weight\)",
    ),
    "foreign part": (lambda d: misnamed(d / "bridge"), r"visual_encoder\.cls belongs to no part"),
    "other shape": (
        lambda d: reshaped(d / "bridge"),
        r"pytorch_model\.bin: qformer\.layernorm\.weight is of shape \[5\], expected \[32\]",
    ),
    "width disagrees": (
        lambda d: change(d / "lm/config.json", hidden_size=64),
        r"lm/model\.safetensors: lm_head\.weight is of shape \[281, 48\], expected \[281, 64\]",
    ),
    "vocabulary disagrees": (
        lambda d: change(d / "lm/config.json", vocab_size=300),
        r"model\.safetensors: \S+ is of 280 rows, expected 300, the vocab_size of its config\.json",
    ),
    "owns <image>": (
        lambda d: owns_image(d / "lm"),
        r"lm: the tokenizer already has <image> \(id 280\)",
    ),
    "no tokenizer": (
        lambda d: [(d / "lm" / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "lm: no tokenizer there",
    ),
    "no bridge": (
        lambda d: change(d / "bridge/config.json", model_type="clip"),
        r"bridge/config\.json: model_type is 'clip', expected blip-2 or instructblip",
    ),
    "no causal model": (
        lambda d: write_json(d / "lm/config.json", T5Config().to_dict()),
        r"lm/config\.json: model_type is 't5', expected a causal language model",
    ),
    "no json": (lambda d: (d / "bridge/config.json").write_text("{"), r"config\.json: cannot be read"),
    "an index of nothing": (
        lambda d: [
            (d / "lm/model.safetensors").unlink(),
            write_json(d / "lm/model.safetensors.index.json", {}),
        ],
        "it has no weight_map",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_part_that_cannot_be_used(tmp_path: Path, damage: str) -> None:
    tiny.ziya_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm")
    harm, said = DAMAGE[damage]
    harm(tmp_path)
    with pytest.raises(CheckpointError, match=said) as caught:
        init(bridge=tmp_path / "bridge", llm=tmp_path / "lm", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bridge", "lm"]


def test_nothing_is_left_of_a_writing_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.ziya_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ziya_visual.model.build.init.save_alignment", full)
    with pytest.raises(OSError, match="no space"):
        init(bridge=tmp_path / "bridge", llm=tmp_path / "lm", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bridge", "lm"]


def test_what_the_command_cannot_mean(tmp_path: Path) -> None:
    tiny.ziya_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm")
    both = {"bridge": tmp_path / "bridge", "llm": tmp_path / "lm"}
    with pytest.raises(CheckpointError, match="--instruction-aware needs a bridge whose Q-Former reads text"):
        init(**both, out=tmp_path / "out", instruction_aware=True)
    with pytest.raises(ConfigError, match="lm: already exists"):
        init(**both, out=tmp_path / "lm")
    with pytest.raises(ConfigError, match="give --bridge, or both"):
        init(llm=tmp_path / "lm", out=tmp_path / "out")
    with pytest.raises(CheckpointError, match="absent: no such folder, and not a hub id"):
        init(bridge=tmp_path / "absent", llm=tmp_path / "lm", out=tmp_path / "out")
    write_json(tmp_path / "v.json", tiny.VISION)
    write_json(tmp_path / "q.json", {"hiden_size": 32})
    configs = {"vision_config": tmp_path / "v.json", "qformer_config": tmp_path / "q.json"}
    with pytest.raises(ConfigError, match=r"q\.json: unknown key 'hiden_size'; did you mean 'hidden_size'"):
        init(llm=tmp_path / "lm", out=tmp_path / "out", **configs)
    write_json(tmp_path / "q.json", {"hidden_size": "wide"})
    with pytest.raises(ConfigError, match=r"q\.json: .*hidden_size"):
        init(llm=tmp_path / "lm", out=tmp_path / "out", **configs)


OPENING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a key away": (lambda d: without(d, "query_tokens"), r"1 keys missing \(such as query_tokens\)"),
    "no language model": (
        lambda d: save_file(
            {k: t for k, t in load_file(d / "model.safetensors").items() if "language_model." not in k},
            d / "model.safetensors",
        ),
        "it contains no language model; join one with `init",
    ),
    "other width": (
        lambda d: change(
            d / "config.json", text_config={**read_json(d / "config.json")["text_config"], "hidden_size": 64}
        ),
        r"model\.safetensors: language_\S+ is of shape \[281, 48\], expected \[281, 64\] by config\.json",
    ),
    "another <image>": (
        lambda d: change(d / "config.json", image_token_index=3),
        r"config\.json: image_token_index is 3, but <image> is 280 in the tokenizer",
    ),
}


@pytest.mark.parametrize("damage", OPENING)
def test_a_stock_folder_that_does_not_open(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.blip2_folder(tmp_path / "stock")
    harm, said = OPENING[damage]
    harm(tmp_path / "stock")
    capfd.readouterr()
    with pytest.raises(ZiyaError, match=said) as caught:
        load_checkpoint(tmp_path / "stock")
    assert "\n" not in str(caught.value)
    assert "MISS" not in capfd.readouterr().err, "stock's own table of keys"
