"""SIGKILL at any instant: a run that goes on each time ends with the weights of an unbroken one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import write_base_and_pictures

from ziya_visual.core.files import hash_file, read_json

pytestmark = pytest.mark.slow
RECIPE = """
name: test
out: {folder}/run
precision: bf16
save_every: 3
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/pictures"]}}
stages:
  - {{name: align, steps: 80, images_per_step: 3, texts_per_image: 1, tasks: {{caption: 1.0}},
      learning_rate: 0.01, trains: [qformer, query_tokens, projection, alignment],
      objectives: {{language_model: 1.0, contrastive: 1.0, matching: 0.5, grounded: 0.5}}}}
  - {{name: base, steps: 120, images_per_step: 3, texts_per_image: 1, tasks: {{caption: 1.0}},
      learning_rate: 0.01, images_at_once: 2, trains: [qformer, query_tokens, projection, lora]}}
"""
KILLS = 5


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ziya_visual", "train", str(recipe), f"out={out}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def content(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): hash_file(path) for path in sorted(out.glob("*/*.safetensors"))}


def test_five_kills(tmp_path: Path) -> None:
    write_base_and_pictures(tmp_path, ("red", "green", "blue", "white", "black"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path))
    begun = time.monotonic()
    _, said = (unbroken := start(recipe, tmp_path / "unbroken")).communicate()
    assert unbroken.returncode == 0, said.decode()
    seconds = time.monotonic() - begun
    seed = int(begun * 1000)
    instants = [random.Random(seed).uniform(0.3, 1.0) * seconds for _ in range(KILLS)]
    reached = []
    for instant in instants:
        running = start(recipe, tmp_path / "killed")
        time.sleep(instant)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        reached.append(max((p.name for p in (tmp_path / "killed" / "states").glob("*.pt")), default=""))
    _, said = (last := start(recipe, tmp_path / "killed")).communicate()
    assert last.returncode == 0, said.decode()
    told = f"seed {seed}, killed after {instants} s of {seconds:.1f}, states {reached}"
    whole, resumed = content(tmp_path / "unbroken"), content(tmp_path / "killed")
    assert len([name for name in whole if name.endswith("model.safetensors")]) == 2
    assert resumed == whole, told
    assert read_json(tmp_path / "killed" / "curve.json") == read_json(tmp_path / "unbroken" / "curve.json"), (
        told
    )
