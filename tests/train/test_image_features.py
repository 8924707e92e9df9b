"""The cache of the ViT's states: training from it is training online, and what it cannot hold is encoded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import QUERIES, write_base_and_pictures

from ziya_visual.core.recipe import Recipe, load_recipe
from ziya_visual.model.checkpoint import load_checkpoint
from ziya_visual.train import image_features, loop
from ziya_visual.train.image_features import FeatureCache, encoder_key
from ziya_visual.train.loop import forward_backward
from ziya_visual.train.objectives import Losses
from ziya_visual.train.optimizer import Optimizer
from ziya_visual.train.run import run_recipe

STEPS, LEARNING_RATE = 4, 0.01  # of the recipes
RECIPE = """
name: test
out: {folder}/run
precision: {precision}
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/pictures"]}}
stages:
  - {{name: one, steps: 4, images_per_step: 3, texts_per_image: 1, tasks: {{caption: 1.0}},
      learning_rate: 0.01, trains: [qformer, query_tokens, projection, alignment, lora],
      objectives: {{language_model: 1.0, contrastive: 1.0, matching: 0.5, grounded: 0.5}}}}
"""


@dataclass
class Run:
    """The losses and gradients of a run's first step, and its last weights."""

    losses: Losses = field(default_factory=dict)
    gradients: list[torch.Tensor] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


def run(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Run:
    done = Run()

    def keep_losses(*args: Any, **kwargs: Any) -> Losses:
        losses = forward_backward(*args, **kwargs)
        done.losses = done.losses or losses
        return losses

    def keep_gradients(optimizer: Optimizer, *, lr: float) -> bool:
        if not done.gradients:
            done.gradients = [
                torch.zeros(()) if p.grad is None else p.grad.clone() for p in optimizer.parameters
            ]
        return clip_and_update(optimizer, lr=lr)

    clip_and_update = Optimizer.clip_and_update
    with monkeypatch.context() as patched:
        patched.setattr(loop, "forward_backward", keep_losses)
        patched.setattr(Optimizer, "clip_and_update", keep_gradients)
        model, alignment, _ = load_checkpoint(run_recipe(recipe))
    done.weights = {k: v for part in (model, alignment) for k, v in part.state_dict().items()}  # type: ignore[union-attr]
    return done


def assert_same_training(one: Run, other: Run) -> None:
    """Compare the first step tightly, and the last weights by what rounding does to an optimizer.

    Features of other images in the same call may differ in the last bit. Adam and Muon divide a gradient by
    its size, so one that is rounding alone moves its weight by up to the learning rate in each step.
    """
    assert one.losses.keys() == other.losses.keys()
    for name, (total, count) in one.losses.items():
        assert (total, count) == pytest.approx(other.losses[name], rel=1e-6), name
    largest = max(float(gradient.norm()) for gradient in other.gradients)
    for gradient, expected in zip(one.gradients, other.gradients, strict=True):
        assert float((gradient - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-6 * largest
    for key, tensor in other.weights.items():
        assert torch.allclose(one.weights[key], tensor, atol=2 * STEPS * LEARNING_RATE), key


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_features_train_like_fresh_ones(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_features, "SHARD_SIZE", 2)
    write_base_and_pictures(tmp_path, ("red", "green", "blue", "white", "black"))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(folder=tmp_path, precision=precision))
    runs: dict[str, Run] = {}
    for name, gigabytes in (("online", 0.0), ("some", 2e-6), ("cached", 1.0), ("again", 1.0)):
        cache = ["cache.path=" + str(tmp_path / "shared")] if name in ("cached", "again") else []
        changes = [f"out={tmp_path / name}", f"cache.gigabytes={gigabytes}", *cache]
        runs[name] = run(load_recipe(path, changes), monkeypatch)
    shards = {
        name: len(list((tmp_path / name).rglob("*.safetensors"))) for name in ("online", "some", "shared")
    }
    folders = 2  # of a checkpoint: its weights and its alignment
    assert shards["online"] == folders
    assert shards["some"] in (folders + 1, folders + 2)
    assert shards["shared"] == 3
    for name in ("some", "cached", "again"):
        assert_same_training(runs[name], runs["online"])


FROZEN = """
name: test
out: {folder}/run
precision: {precision}
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/pictures"]}}
stages:
  - {{name: one, steps: 4, images_per_step: 3, texts_per_image: 1, tasks: {{caption: 1.0}},
      learning_rate: 0.01, trains: [projection, lora], objectives: {{language_model: 1.0, contrastive: 1.0}}}}
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_queries_are_cached_when_the_qformer_is_frozen(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_base_and_pictures(tmp_path, ("red", "green", "blue", "white", "black"))
    path = tmp_path / "recipe.yaml"
    path.write_text(FROZEN.format(folder=tmp_path, precision=precision))
    runs = {}
    for name, frozen in (("cached", True), ("online", False)):
        if not frozen:
            monkeypatch.setattr("ziya_visual.train.run.needs_queries_only", lambda _: False)
        runs[name] = run(load_recipe(path, [f"out={tmp_path / name}"]), monkeypatch)
        (shard,) = (tmp_path / name / "features").rglob("*.safetensors")
        with safe_open(shard, "pt") as file:
            assert file.get_tensor("states").shape == ((5, QUERIES, 32) if frozen else (5, 5, 32))
    assert_same_training(runs["cached"], runs["online"])


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)


class Encoder:
    """An encoder that records the rows it encodes."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.encoded = pixels, []

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        self.encoded += rows.tolist()
        return torch.from_numpy(self.pixels[rows].astype(np.float32)).flatten(2)


def test_each_image_is_encoded_once_for_all_runs(tmp_path: Path) -> None:
    pixels = pictures(5)
    pixels[4] = pixels[1]  # the same picture under another name
    first = Encoder(pixels)
    cache = FeatureCache(tmp_path, pixels, first, gigabytes=1)
    cache.fill()
    assert sorted(first.encoded) == [0, 2, 3, 4]
    second = Encoder(pixels[::-1])
    cache = FeatureCache(tmp_path, pixels[::-1], second, gigabytes=1)
    cache.fill()
    rows = np.asarray([3, 0, 3])
    assert torch.equal(cache(rows), Encoder(pixels[::-1])(rows))
    assert second.encoded == []


def test_a_damaged_shard_is_rewritten_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = pictures(3)
    FeatureCache(tmp_path, pixels, Encoder(pixels), gigabytes=1).fill()
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:20])
    encoder = Encoder(pixels)
    cache = FeatureCache(tmp_path, pixels, encoder, gigabytes=1)
    cache.fill()
    assert f"{shard} is damaged and will be written again" in caplog.text
    assert encoder.encoded == [0, 1, 2]
    assert torch.equal(cache(np.arange(3)), encoder(np.arange(3)))


def test_shards_still_being_written_are_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file moves when it is whole: a process that began at the same time failed to open it."""
    pixels = pictures(3)

    def write_while_another_opens(tensors: dict[str, torch.Tensor], aside: Path, **options: object) -> None:
        save_file(tensors, aside, **options)
        other = Encoder(pixels)
        FeatureCache(tmp_path, pixels, other, gigabytes=1)(np.arange(3))
        assert other.encoded == [0, 1, 2]

    monkeypatch.setattr(image_features, "save_file", write_while_another_opens)
    caplog.set_level("WARNING", "ziya_visual")  # a command that an earlier test ran may have left it at INFO
    FeatureCache(tmp_path, pixels, Encoder(pixels), gigabytes=1).fill()
    assert caplog.text == ""


def test_ranks_share_the_encoding_even_if_one_opens_the_folder_late(tmp_path: Path) -> None:
    pixels = pictures(5)
    first, second = Encoder(pixels), Encoder(pixels)
    FeatureCache(tmp_path, pixels, first, gigabytes=1).fill(rank=0, world_size=2)
    cache = FeatureCache(tmp_path, pixels, second, gigabytes=1)
    cache.fill(rank=1, world_size=2)
    assert (first.encoded, second.encoded) == ([0, 2, 4], [1, 3])
    assert torch.equal(cache(np.arange(5)), Encoder(pixels)(np.arange(5)))
    assert second.encoded == [1, 3]


def test_images_beyond_the_cache_limit_are_encoded_when_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_features, "SHARD_SIZE", 2)
    pixels = pictures(6)
    encoder = Encoder(pixels)
    cache = FeatureCache(tmp_path, pixels, encoder, gigabytes=1.5e-6)  # two shards of 2 pictures
    cache.fill()
    assert "do not hold the features of 2 of 6 pictures" in caplog.text
    encoder.encoded.clear()
    rows = np.asarray([5, 0, 4, 2])
    assert torch.equal(cache(rows), Encoder(pixels)(rows))
    assert encoder.encoded == [5, 4]


def test_the_key_depends_on_weights_size_and_precision() -> None:
    one, other = (torch.nn.Linear(2, 2) for _ in range(2))
    keys = {
        encoder_key([one], image_size=16, dtype=torch.float32),
        encoder_key([other], image_size=16, dtype=torch.float32),
        encoder_key([one], image_size=32, dtype=torch.float32),
        encoder_key([one], image_size=16, dtype=torch.bfloat16),
        encoder_key([one.to(torch.bfloat16)], image_size=16, dtype=torch.bfloat16),
    }
    assert len(keys) == 5
