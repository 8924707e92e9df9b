"""Several processes take the step that one would: losses and gradients, however the model is laid out."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import logits, write_base_and_pictures

from ziya_visual.core.files import read_json, write_text
from ziya_visual.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
COLORS = ("red", "green", "blue", "white", "black", "yellow")
CHINESE = ("红", "绿", "蓝")  # of the first pictures alone: the second process has fewer, or none
RECIPE = """
name: test
out: {folder}/run
precision: fp32
optimizer: adamw
save_every: 5
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/pictures"]}}
stages:
  - {{name: one, steps: 10, images_per_step: 6, texts_per_image: 2, tasks: {{caption: 1.0}},
      learning_rate: 0.001, final_fraction: 1.0,
      trains: [qformer, query_tokens, projection, alignment, lora],
      objectives: {{language_model: 1.0, contrastive: 1.0, matching: 0.5, grounded: 0.5}}}}
"""
WORKER = Path(__file__).parent / "one_rank.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_base_and_pictures(folder, COLORS)
    table = folder / "pictures" / "captions.csv"
    chinese = [f"{color}.png,zh,一张{word}色的图" for color, word in zip(COLORS, CHINESE, strict=False)]
    write_text(table, table.read_text() + "\n".join(chinese) + "\n")
    return folder


def launch(count: int, *command: str) -> None:
    """Run a Python command in so many processes, and see it succeed."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [sys.executable, *(several if count > 1 else []), *command],
        capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]


def steps(folder: Path, count: int, *changes: str) -> list[dict[str, Any]]:
    name = "-".join([str(count), *changes]).replace(": ", "-")
    recipe, out = folder / f"{name}.yaml", folder / f"{name}.pt"
    text = RECIPE.format(folder=folder)
    recipe.write_text(text + "".join(f"{change}\n" for change in changes))
    launch(count, str(WORKER), str(recipe), str(out))
    results: list[dict[str, Any]] = torch.load(out)
    return results


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[dict[str, Any]]:
    return steps(folder, 1)


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (2, ()),
        (3, ()),
        (2, ("shard: true", "save: adapter")),
        (2, ("shard: true", "save: adapter", "recompute: true")),
        (1, ("recompute: true",)),
    ],
)
def test_losses_and_gradients_are_those_of_one(
    folder: Path, alone: list[dict[str, Any]], count: int, changes: tuple[str, ...]
) -> None:
    for one, several in zip(alone, steps(folder, count, *changes), strict=True):
        assert several["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert {"contrastive/en", "contrastive/zh", "language_model/zh"} <= one["losses"].keys()
        assert several["gradients"].keys() == one["gradients"].keys()
        largest = max(float(grad.norm()) for grad in one["gradients"].values())
        for name, grad in one["gradients"].items():
            apart = float((several["gradients"][name] - grad).norm())
            # Rounding alone is up to 4e-5 on CPUs without AMX; a lost share of a rank would be 0.1 or more.
            assert apart <= 1e-4 * float(grad.norm()) + 1e-6 * largest, name


def curve(folder: Path, name: str) -> dict[tuple[int, str], float]:
    return {(row["step"], row["name"]): row["value"] for row in read_json(folder / name / "curve.json")}


def test_a_run_goes_on_with_another_number_of_processes(folder: Path) -> None:
    """The same examples in the same order: the losses stay those of one process."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    train = ["-m", "ziya_visual", "train", str(recipe)]
    launch(1, *train, f"out={folder / 'one'}")
    launch(2, *train, f"out={folder / 'both'}", "stages.0.steps=5")
    launch(1, *train, f"out={folder / 'both'}")
    one, both = curve(folder, "one"), curve(folder, "both")
    assert both.keys() > {(9, "language_model/en"), (9, "contrastive/en")}
    assert {key: both[key] for key in one} == pytest.approx(one, rel=1e-3)


def test_a_sharded_run_is_validated_answers_and_leaves_an_adapter(folder: Path) -> None:
    recipe = folder / "sharded.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    said = [f"validation.path=[{folder}/pictures]", f"data.shared=[{folder}/pictures]"]
    said += ["validation.best=loss", "sample_every=5", "save=adapter"]
    train = ["-m", "ziya_visual", "train", str(recipe), *said]
    launch(1, *train, f"out={folder / 'plain'}")
    launch(2, *train, f"out={folder / 'sharded'}", "shard=true")
    plain, sharded = curve(folder, "plain"), curve(folder, "sharded")
    assert sharded == pytest.approx(plain, rel=1e-3)
    assert (9, "validation/loss/zh") in sharded
    answers = sorted(path.name for path in (folder / "sharded" / "samples").iterdir())
    assert answers == ["one-000000004.jsonl", "one-000000009.jsonl"]
    model, _, processor = load_checkpoint(folder / "sharded" / "one")
    assert torch.isfinite(logits(model, processor)).all()


def test_processes_that_leave_a_step_nothing_to_share_are_refused(folder: Path) -> None:
    recipe = folder / "few.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    with pytest.raises(AssertionError, match="a step has 1 pictures for 2 processes"):
        launch(
            2, "-m", "ziya_visual", "train", str(recipe), "stages.0.images_per_step=1", f"out={folder}/few"
        )
