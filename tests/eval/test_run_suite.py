"""A folder of pictures is trained on by a recipe, and a suite file measures what came of it."""

from functools import partial
from pathlib import Path

import folders
import numpy as np
import pytest
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, read_jsonl, write_records
from ziya_visual.core.recipe import load_recipe
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.eval import suites
from ziya_visual.eval.run import run_suite
from ziya_visual.scenes.drawing import render, sample_scene
from ziya_visual.train.pretrain import SHIPPED
from ziya_visual.train.run import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
NAMES = {"en": ("one", "two", "three", "four"), "zh": ("一", "二", "三", "四")}
QUESTION = {"en": "What is in the picture?", "zh": "图片里有什么？"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures, named by how many objects they show; a fifth cannot be read."""
    path = tmp_path_factory.mktemp("folder")
    rows, asked = ["image,lang,text"], []
    for number in range(4):
        scene = sample_scene(np.random.default_rng(number), held_out=False, count=number + 1)
        Image.fromarray(render(scene)).save(path / f"{number}.png")
        for lang, names in NAMES.items():
            rows.append(f"{number}.png,{lang},{names[number]}")
            turns = (Message("user", QUESTION[lang]), Message("assistant", names[number]))
            image = ImageRef(path=f"{number}.png")
            for task in ("vqa", "caption"):
                example = Example(f"{number}-{task}-{lang}", lang, task, turns, image, f"{number}.png")
                asked.append(example.with_messages(turns, answers=(names[number],)))
    (path / "broken.png").write_bytes(b"no picture")
    (path / "captions.csv").write_text("\n".join([*rows, "broken.png,en,five"]), "utf-8")
    write_records(path / "suite.jsonl", asked)
    return path


@pytest.mark.slow
def test_a_folder_is_trained_on_and_measured(folder: Path, tmp_path: Path) -> None:
    changes = [f"out={tmp_path / 'run'}", f"data.path=[{folder}]", "precision=fp32"]
    changes += [f"model.vision={SHIPPED / 'vit'}", f"model.language_model={SHIPPED / 'lm'}"]
    changes += [f"stages.{number}.steps=2" for number in range(3)]
    changes += [f"stages.{number}.tasks={{caption: 1.0}}" for number in range(3)]
    checkpoint = run_recipe(load_recipe(RECIPE, changes))
    rejects = [row for _, row in read_jsonl(tmp_path / "run" / "rejects.jsonl")]
    assert len(rejects) == 1
    assert "broken.png" in rejects[0]["reason"]

    result = run_suite(checkpoint, folder / "suite.jsonl", out=tmp_path / "eval")
    assert result == read_json(tmp_path / "eval" / "results.json")
    found = {(row["lang"], row["task"], row["name"]): row for row in result["metrics"]}
    assert found["zh", "vqa", "accuracy"]["n"] == 4
    assert (tmp_path / "eval" / "report.html").read_text("utf-8").count("data:image/png") >= 4

    answers = len((tmp_path / "eval" / "answers.jsonl").read_text("utf-8").splitlines())
    small = run_suite(checkpoint, folder / "suite.jsonl", out=tmp_path / "eval", dtype="int8")
    assert small["card"]["command"].endswith(f"--dtype int8 --out {tmp_path / 'eval'}")
    again = (tmp_path / "eval" / "answers.jsonl").read_text("utf-8").splitlines()
    assert len(again) == 2 * answers, "another dtype is another model: it is asked anew"


def test_a_stock_checkpoint_is_measured_without_retrieval(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "make_pools", partial(suites.make_pools, size=2))
    folders.blip2(tmp_path / "stock")
    result = run_suite(tmp_path / "stock", folder / "suite.jsonl", out=tmp_path / "eval")
    assert {row["task"] for row in result["metrics"]} == {"vqa", "caption"}
    assert result["card"]["not_measured"] == ["suite: no retrieval, because stock only generates text"]


def test_a_suite_without_pictures_is_refused(tmp_path: Path) -> None:
    turns = (Message("user", "?"), Message("assistant", "!"))
    write_records(tmp_path / "suite.jsonl", [Example("1", "en", "vqa", turns, answers=("!",))])
    with pytest.raises(DataError, match="needs a picture file"):
        run_suite(tmp_path, tmp_path / "suite.jsonl", out=tmp_path / "out")
