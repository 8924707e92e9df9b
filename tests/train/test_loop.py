"""Training: it learns, it is exact to resume, and what it is told to freeze stays."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny, tiny_tokenizer

from ziya_visual.core.errors import DataError
from ziya_visual.core.recipe import Recipe, load_recipe
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.model.lora import freeze_all_but
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.batches import Batches, TrainingData, group_by_image
from ziya_visual.train.loop import forward_backward
from ziya_visual.train.model import BuiltModel
from ziya_visual.train.objectives import ImageFeatures, LossWeights, mean_losses
from ziya_visual.train.optimizer import Optimizer
from ziya_visual.train.run import train
from ziya_visual.train.run_state import STATES, read_state, write_state

COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
CHINESE = {"red": "红色", "green": "绿色", "blue": "蓝色", "white": "白色"}
RECIPE = """
name: test
out: {out}
seed: 0
precision: fp32
save_every: {save_every}
model: {{lora: {{rank: 8, alpha: 16}}}}
data: {{path: [unused]}}
stages:
  - {{name: align, steps: {align}, images_per_step: 4, texts_per_image: 2, learning_rate: 0.004,
      tasks: {{caption: 1.0}}, trains: [qformer, query_tokens, projection, alignment],
      objectives: {{language_model: 1.0, contrastive: 1.0, matching: 0.5, grounded: 0.5}}}}
  - {{name: base, steps: {base}, images_per_step: 4, texts_per_image: 2, learning_rate: 0.01,
      tasks: {{vqa: 1.0}}, trains: [qformer, query_tokens, projection, alignment, lora],
      objectives: {{language_model: 1.0, contrastive: 0.5}}}}
"""


def examples() -> list[Example]:
    rows = []
    for color in COLORS:
        for lang, word, question in (("en", color, "What color?"), ("zh", CHINESE[color], "什么颜色？")):
            common: dict[str, Any] = {"lang": lang, "image": ImageRef(path=f"{color}.png"), "image_id": color}
            rows.append(
                Example(f"c-{color}-{lang}", task="caption", messages=(Message("assistant", word),), **common)
            )
            turns = (Message("user", question), Message("assistant", word))
            rows.append(Example(f"q-{color}-{lang}", task="vqa", messages=turns, answers=(word,), **common))
    return rows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def built_model(tokenizer: Any) -> BuiltModel:
    model, alignment, processor = tiny(
        tokenizer=tokenizer,
        vision={"num_hidden_layers": 1},
        language_model={"num_hidden_layers": 2, "initializer_range": 0.5},  # a frozen one must say something
    )
    return BuiltModel(model, alignment, processor)


def data() -> TrainingData:
    pixels = np.stack([np.full((16, 16, 3), rgb, np.uint8) for rgb in COLORS.values()])
    return TrainingData(group_by_image(examples()), pixels)


def recipe(folder: Path, *, align: int = 6, base: int = 6, save_every: int = 1) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(out=folder / "run", align=align, base=base, save_every=save_every))
    return load_recipe(path)


def weights(built: BuiltModel) -> dict[str, torch.Tensor]:
    return {k: v.clone() for m in (built.model, built.alignment) for k, v in m.state_dict().items()}


@pytest.mark.slow
def test_training_overfits_four_images(tokenizer: Any, tmp_path: Path) -> None:
    built = built_model(tokenizer)
    curve = train(recipe(tmp_path, align=150, base=300, save_every=200), built, data())
    last = {row["name"]: row["value"] for row in curve if row["stage"] == "base"}
    assert last["language_model/en"] < 0.05, last
    assert last["language_model/zh"] < 0.05, last
    assert last["contrastive/en"] < 0.2, last


def test_frozen_parameters_do_not_change(tokenizer: Any, tmp_path: Path) -> None:
    built = built_model(tokenizer)
    before = weights(built)
    train(recipe(tmp_path), built, data())
    after = weights(built)
    for name, tensor in before.items():
        frozen = name.startswith(("vision_model", "language_model"))
        own = after.get(
            name, after.get(name.replace("language_model.", "language_model.base_model.model.", 1))
        )
        if own is None:  # a linear layer that LoRA wraps
            place, kind = name.replace("language_model.", "language_model.base_model.model.", 1).rsplit(
                ".", 1
            )
            own = after[f"{place}.base_layer.{kind}"]
        if frozen:
            assert torch.equal(own, tensor), name
    assert not torch.equal(after["query_tokens"], before["query_tokens"])


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tokenizer: Any, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = built_model(tokenizer)
    whole_curve = train(recipe(tmp_path / "a"), whole, data())

    class KilledError(Exception):
        pass

    steps = 0
    finish = Optimizer.clip_and_update

    def count(*args: Any, **kwargs: Any) -> bool:
        nonlocal steps
        if steps == stop:
            raise KilledError
        steps += 1
        return finish(*args, **kwargs)

    monkeypatch.setattr(Optimizer, "clip_and_update", count)
    with pytest.raises(KilledError):
        train(recipe(tmp_path / "b"), built_model(tokenizer), data())
    monkeypatch.setattr(Optimizer, "clip_and_update", finish)
    resumed = built_model(tokenizer)
    curve = train(recipe(tmp_path / "b"), resumed, data())
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert curve == whole_curve


@pytest.mark.parametrize("damage", ["cut off", "a byte changed", "no checksum", "all"])
def test_a_damaged_state_is_skipped_with_a_warning(
    tokenizer: Any, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = built_model(tokenizer)
    config = recipe(tmp_path)
    train(config, whole, data())
    states = sorted((config.out / STATES).glob("*.pt"))
    assert [path.name for path in states] == ["01-000000005.pt", "01-000000006.pt"], "the newest two are kept"
    content = states[-1].read_bytes()
    if damage == "cut off":
        states[-1].write_bytes(content[: len(content) // 2])
    elif damage == "a byte changed":
        states[-1].write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
    elif damage == "no checksum":
        states[-1].with_suffix(".pt.sha256").unlink()
    else:
        for path in states:
            path.write_bytes(b"")
    resumed = built_model(tokenizer)
    train(config, resumed, data())
    assert f"{states[-1]} is damaged or incomplete" in caplog.text
    state = read_state(config.out / STATES)
    assert state is not None
    assert (state["stage"], state["step"]) == (1, 6)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


@pytest.mark.parametrize("aligned", [True, False])
def test_micro_batches_have_the_gradients_of_the_whole_batch(tokenizer: Any, aligned: bool) -> None:
    """8 pictures at once, 4, 3 and 1: a loss is a sum and a count. In float64, so that rounding is small."""
    built = built_model(tokenizer)
    built.model.double()
    built.alignment.double()
    freeze_all_but(built.model, built.alignment, ("qformer", "query_tokens", "projection", "alignment"))
    records = [replace(e, id=f"{n}{e.id}", image_id=f"{n}{e.image_id}") for n in "ab" for e in examples()]
    pixels = np.concatenate([data().pixels, 255 - data().pixels])
    batches = Batches(
        group_by_image(records), built.processor.chat, tasks={"caption": 1.0, "vqa": 1.0}, images_per_step=8,
        texts_per_image=3, num_image_tokens=4, seed=0, max_caption_tokens=16,
    )  # fmt: skip
    weight = 0.5 * aligned
    loss_weights = LossWeights(language_model=2.0, contrastive=weight, matching=weight, grounded=weight)
    named = [*built.model.named_parameters(), *built.alignment.named_parameters()]

    def get_features(rows: np.ndarray) -> ImageFeatures:
        states = built.model.encode_images(built.processor.normalise(pixels[rows]))
        return ImageFeatures(states, built.model.query_images(states))

    results = []
    for at_once in (None, 8, 4, 3, 1):
        torch.manual_seed(0)  # matching draws its negatives
        for _, parameter in named:
            parameter.grad = None
        losses = forward_backward(
            built.model, built.alignment, batches[0], get_features, weights=loss_weights,
            langs=["en", "zh"], step=0, precision="fp32", images_at_once=at_once,
        )  # fmt: skip
        results.append(
            (mean_losses(losses), {name: p.grad.clone() for name, p in named if p.grad is not None})
        )
    whole_values, whole = results[0]
    assert len(whole) > 20
    for values, grads in results[1:]:
        assert values == pytest.approx(whole_values, abs=1e-6)
        assert grads.keys() == whole.keys()
        for name, grad in grads.items():
            assert (grad - whole[name]).norm() <= 1e-6 * whole[name].norm() + 1e-6, name


def test_new_states_survive_beside_damaged_states_of_later_steps(tmp_path: Path) -> None:
    for step in (7, 8):
        write_state(tmp_path, {"stage": 1, "step": step})
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    assert read_state(tmp_path) is None
    for step in (1, 2, 3):
        write_state(tmp_path, {"stage": 0, "step": step})
        assert read_state(tmp_path) == {"stage": 0, "step": step}
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["00-000000002.pt", "00-000000003.pt"]


def test_non_finite_losses_stop_the_run(tokenizer: Any, tmp_path: Path) -> None:
    broken = built_model(tokenizer)
    with torch.no_grad():
        broken.model.language_projection.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="10 steps in a row"):
        train(recipe(tmp_path, align=30), broken, data())


def test_an_epoch_covers_every_image_once_and_only_the_tasks_asked_for(tokenizer: Any) -> None:
    processor = ZiyaProcessor(tokenizer, image_size=16, num_query_tokens=4)
    common: dict[str, Any] = {"images_per_step": 2, "texts_per_image": 2, "num_image_tokens": 4, "seed": 3}
    batches = Batches(
        group_by_image(examples()), processor.chat, tasks={"vqa": 1.0}, max_caption_tokens=16, **common
    )
    for epoch in range(3):
        drawn = [row for step in (2 * epoch, 2 * epoch + 1) for row in batches[step].images]
        assert sorted(drawn) == [0, 1, 2, 3]
    in_another_process = pickle.loads(pickle.dumps(batches))
    assert np.array_equal(batches[5].texts.input_ids, in_another_process[5].texts.input_ids)
    with pytest.raises(DataError, match="no picture has a text"):
        Batches(
            group_by_image(examples()),
            processor.chat,
            tasks={"dialogue": 1.0},
            max_caption_tokens=16,
            **common,
        )


def test_data_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 0 records has a picture"):
        group_by_image([])
