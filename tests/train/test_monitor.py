"""What a run says on its way: validation and best weights, answers, trackers, steps that went wrong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import write_base_and_pictures

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import read_json, read_jsonl, write_records
from ziya_visual.core.recipe import Recipe, load_recipe
from ziya_visual.core.records import Example, ImageRef, Message, Provenance
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.train import loop, monitor
from ziya_visual.train.optimizer import Optimizer
from ziya_visual.train.run import run_recipe
from ziya_visual.train.speed import Speed

COLORS = ("red", "green", "blue")
RECIPE = """
name: test
out: {folder}/run
precision: fp32
save_every: 3
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/data.jsonl"]}}
stages:
  - {{name: one, steps: 6, images_per_step: 3, texts_per_image: 2, tasks: {{caption: 1.0, text: 1.0}},
      learning_rate: 0.01, trains: [projection, lora], objectives: {{language_model: 1.0}}}}
"""


def records(folder: Path, colors: Sequence[str]) -> list[Example]:
    rows = []
    for color in colors:
        Image.new("RGB", (16, 16), color).save(folder / f"{color}.png")
        image: dict[str, Any] = {"image": ImageRef(path=str(folder / f"{color}.png")), "image_id": color}
        image["provenance"] = Provenance(origin="grammar")  # alike to the eye of the leak guard
        for lang, caption in (("en", f"a {color} picture"), ("zh", f"{color}色")):
            turns = (Message("assistant", caption),)
            rows.append(Example(f"{color}-{lang}", lang, "caption", turns, **image))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    write_base_and_pictures(folder, COLORS)
    texts = [
        Example(f"t{n}", "en", "text", (Message("user", f"say {n}"), Message("assistant", f"{n} {n}")))
        for n in range(5)
    ]
    write_records(folder / "data.jsonl", records(folder, COLORS) + texts)
    write_records(folder / "held.jsonl", records(folder, ("white", "black")))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder


def recipe(folder: Path, out: Path, *changes: str) -> Recipe:
    return load_recipe(folder / "recipe.yaml", [f"out={out}", *changes])


def validated(folder: Path, *, every: int) -> list[str]:
    path = f"validation.path=[{folder / 'held.jsonl'}]"
    return [path, f"validation.every={every}", "validation.best=loss"]


def points(out: Path, name: str) -> dict[int, float]:
    return {row["step"]: row["value"] for row in read_json(out / "curve.json") if row["name"] == name}


def test_texts_without_images_train_beside_images(folder: Path, tmp_path: Path) -> None:
    curves: list[list[str]] = []
    for name, count in (("with", 2), ("without", 0)):
        config = recipe(
            folder, tmp_path / name, f"stages.0.texts_per_step={count}", "stages.0.images_at_once=2"
        )
        run_recipe(config)
        curves.append([str(read_json(tmp_path / name / "curve.json"))])
    assert curves[0] != curves[1]
    with pytest.raises(Exception, match=r"texts_per_step: no text of the tasks \['caption'\]"):
        run_recipe(
            recipe(folder, tmp_path / "x", "stages.0.texts_per_step=2", "stages.0.tasks={caption: 1.0}")
        )


def test_a_stage_ends_with_its_best_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, weights = iter([3.0, 1.0, 2.0, 5.0, 1.0, 4.0]), []

    def validation_losses(model: Any, *_: Any, **__: Any) -> dict[str, float]:
        weights.append(model.language_projection.weight.detach().clone())
        return {"loss": next(losses)}

    changes = validated(folder, every=1)
    config = recipe(folder, tmp_path, *changes)
    with monkeypatch.context() as patched:
        patched.setattr(monitor, "validation_losses", validation_losses)
        trained = load_checkpoint(run_recipe(config))[0]
    assert torch.equal(trained.language_projection.weight, weights[1])
    assert not torch.equal(weights[1], weights[-1])
    resumed = load_checkpoint(run_recipe(config))[0]  # nothing is left to do
    assert torch.equal(resumed.language_projection.weight, weights[1])
    run_recipe(recipe(folder, tmp_path / "real", *changes))
    assert set(points(tmp_path / "real", "validation/loss/zh")) == set(range(6))
    with pytest.raises(ConfigError, match="there is no 'los'; did you mean 'loss'"):
        run_recipe(recipe(folder, tmp_path / "typo", *changes[:2], "validation.best=los"))


def test_training_images_are_refused_as_held_out_data(folder: Path, tmp_path: Path) -> None:
    data = folder / "data.jsonl"
    with pytest.raises(DataError, match=r"3 of its images are in the training data .*data\.shared="):
        run_recipe(recipe(folder, tmp_path, f"validation.path=[{data}]"))
    run_recipe(recipe(folder, tmp_path, f"validation.path=[{data}]", f"data.shared=[{data}]"))
    assert points(tmp_path, "validation/loss")


def test_a_resumed_run_keeps_its_best_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [
        "validation.path=[" + str(folder / "held.jsonl") + "]",
        "validation.every=2",
        "validation.best=loss",
    ]
    run_recipe(recipe(folder, tmp_path / "whole", *changes))
    finish, steps = Optimizer.clip_and_update, iter(range(5))

    def killed(*args: Any, **kwargs: Any) -> bool:
        if next(steps) == 4:
            raise KeyboardInterrupt
        return finish(*args, **kwargs)

    monkeypatch.setattr(Optimizer, "clip_and_update", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(folder, tmp_path / "killed", *changes))
    monkeypatch.setattr(Optimizer, "clip_and_update", finish)
    run_recipe(recipe(folder, tmp_path / "killed", *changes))
    whole, resumed = (
        (tmp_path / name / "one" / "model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert resumed == whole
    assert read_json(tmp_path / "killed" / "curve.json") == read_json(tmp_path / "whole" / "curve.json")


def test_sampling_answers_does_not_change_training(folder: Path, tmp_path: Path) -> None:
    run_recipe(recipe(folder, tmp_path / "silent"))
    run_recipe(recipe(folder, tmp_path / "told", "sample_every=4"))
    rows = {
        path.stem: [row for _, row in read_jsonl(path)]
        for path in sorted((tmp_path / "told" / "samples").iterdir())
    }
    assert list(rows) == ["one-000000003", "one-000000005"]
    assert [row["lang"] for row in rows["one-000000003"]] == ["en", "zh"]
    assert rows["one-000000003"][0]["wanted"] == "a red picture"
    assert all(row["asked"] for row in rows["one-000000003"])
    silent, sampled = (
        (tmp_path / name / "one" / "model.safetensors").read_bytes() for name in ("silent", "told")
    )
    assert sampled == silent


def test_tensorboard_receives_the_curve(folder: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_recipe(recipe(folder, tmp_path, "trackers=[tensorboard]"))
    files = [str(path) for path in tmp_path.glob("tensorboard/**/events*")]
    runs = [events.EventAccumulator(file).Reload() for file in files]
    (logged,) = [run for run in runs if "language_model/en" in run.Tags()["scalars"]]
    expected = points(tmp_path, "language_model/en")
    values = {point.step: point.value for point in logged.Scalars("language_model/en")}
    assert values == pytest.approx(expected, abs=1e-4)
    assert all(point.value > 0 for point in logged.Scalars("tokens_per_second"))


def test_a_missing_tracker_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ziya_visual.train.monitor.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="trackers: wandb is not installed: pip install wandb"):
        run_recipe(recipe(folder, tmp_path, "trackers=[wandb]"))


def test_the_texts_of_a_non_finite_step_are_written_down(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.forward_backward

    def broken(model: Any, *args: Any, step: int, **kwargs: Any) -> Any:
        parts = real(model, *args, step=step, **kwargs)
        if step == 2:
            model.language_projection.weight.grad.fill_(float("nan"))
        return parts

    monkeypatch.setattr(loop, "forward_backward", broken)
    run_recipe(recipe(folder, tmp_path))
    (path,) = (tmp_path / "bad").iterdir()
    assert path.name == "one-000000002-0.jsonl"
    assert {row["image_id"] for _, row in read_jsonl(path)} == set(COLORS)


def test_held_out_losses_are_measured_without_dropout(folder: Path, tmp_path: Path) -> None:
    """What learns may have dropout, which BLIP-2's Q-Former brings: none of it where a loss is measured."""
    model, alignment, processor = load_checkpoint(folder / "base")
    model.config.qformer_config.hidden_dropout_prob = 0.5
    save_checkpoint(tmp_path / "base", model=model, alignment=alignment, processor=processor)
    changes = [*validated(folder, every=1)[:2], f"model.checkpoint={tmp_path / 'base'}"]
    frozen = ["stages.0.trains=[qformer, lora]", "stages.0.learning_rate=1e-30", "optimizer=adamw"]
    run_recipe(recipe(folder, tmp_path / "run", *changes, *frozen))
    losses = points(tmp_path / "run", "validation/loss").values()
    assert max(losses) == min(losses)
    assert len(set(points(tmp_path / "run", "language_model/en").values())) > 1


def test_dialogues_without_a_question_are_not_sampled(folder: Path, tmp_path: Path) -> None:
    rows = records(folder, COLORS)
    dialogues = [replace(example, id=f"{example.id}-d", task="dialogue") for example in rows[:1]]
    write_records(tmp_path / "data.jsonl", dialogues + rows)
    run_recipe(recipe(folder, tmp_path, f"data.path=[{tmp_path / 'data.jsonl'}]", "sample_every=6"))
    ((_, row), _) = list(read_jsonl(tmp_path / "samples" / "one-000000005.jsonl"))
    assert row["asked"] != row["wanted"]


def test_speed_counts_images_tokens_and_flops(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    measure = Speed.measure

    def record_counts(self: Speed) -> dict[str, float]:
        counts.append((self._tokens, self._images, self._flops))
        return measure(self)

    monkeypatch.setattr(Speed, "measure", record_counts)
    run_recipe(recipe(folder, tmp_path))
    (tokens, images, flops), last = counts[0], counts[-1]
    assert images == 3
    assert last[1] == 15
    assert tokens > 3 * 5
    assert flops > 0


@pytest.mark.soak
def test_compiled_blocks_learn_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("plain", "compiled"):
        run_recipe(recipe(folder, tmp_path / name, f"compile={str(name == 'compiled').lower()}"))
    plain, compiled = (points(tmp_path / name, "language_model/zh") for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3)


@pytest.mark.slow
def test_a_language_model_in_4_bits_learns_by_its_adapters(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = recipe(
        folder, tmp_path, "model.quantize=nf4", "save=adapter", "precision=bf16", "stages.0.steps=40"
    )
    model, _, _ = load_checkpoint(run_recipe(config))  # joined with the base's own weights
    losses = points(tmp_path, "language_model/en")
    assert losses[39] < 0.5 * losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
