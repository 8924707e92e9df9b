"""The folder that a reader of the tutorials stands in, with tiny things in place of the real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import tiny
import yaml
from pages import ROOT
from PIL import Image
from tiny_models import tiny as tiny_checkpoint

from ziya_visual.core.files import read_json, write_json, write_jsonl, write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.model.checkpoint import save_checkpoint

STEPS = 3  # of every stage of a recipe
COLORS = ("red", "blue", "green", "black", "white", "yellow", "purple", "orange", "gray", "pink")
ZH = ("红", "蓝", "绿", "黑", "白", "黄", "紫", "橙", "灰", "粉")


def build(folder: Path) -> None:
    """A checkpoint where the quickstart leaves it, captioned pictures, questions, a language model."""
    model, alignment, processor = tiny_checkpoint()
    for name in ("checkpoint", "base"):
        save_checkpoint(
            folder / "runs" / "quickstart" / name, model=model, alignment=alignment, processor=processor
        )
    tiny.llm_folder(folder / "my-llm")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for path in (folder / "recipes").glob("*.yaml"):
        path.write_text(_short(yaml.safe_load(path.read_text("utf-8"))))
    _pictures(folder / "my-pictures")
    shutil.copy(folder / "my-pictures" / "red.png", folder / "scene.png")
    drawn = folder / "runs" / "quickstart" / "data" / "images"
    drawn.mkdir(parents=True)
    shutil.copy(folder / "scene.png", drawn / "train-00000.png")
    write_records(folder / "questions.jsonl", [_question(color) for color in COLORS])
    write_records(folder / "captions.jsonl", [_caption(color) for color in COLORS])
    write_jsonl(folder / "pairs.jsonl", _pairs())
    write_jsonl(folder / "chats.jsonl", [_chat(color) for color in COLORS])
    _predictions(folder)
    _broken(folder)


def _broken(folder: Path) -> None:
    """What the page about errors is about."""
    (folder / "src").symlink_to(ROOT / "src")
    checkpoint = folder / "runs" / "quickstart" / "checkpoint"
    shutil.copytree(checkpoint, folder / "cut")
    with (folder / "cut" / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    (folder / "renamed").mkdir()
    (folder / "renamed" / "captions.csv").write_text("image,lang,text\ngone.png,en,a ring\n")


def _short(recipe: dict[str, Any]) -> str:
    """A recipe of a few steps over few pictures, for a model with other sizes."""
    for stage in recipe["stages"]:
        stage |= {"steps": STEPS, "images_per_step": 4, "warmup_steps": 1}
    return yaml.safe_dump(recipe, allow_unicode=True)


def _pictures(folder: Path) -> None:
    folder.mkdir()
    rows = ["image,lang,text"]
    for number, (color, zh) in enumerate(zip(COLORS, ZH, strict=True)):
        picture = tiny.picture(number).resize((32, 32))
        Image.blend(picture, Image.new("RGB", (32, 32), color), 0.6).save(folder / f"{color}.png")
        rows += [f"{color}.png,en,a {color} ring", f"{color}.png,zh,一个{zh}色的圆环"]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", "utf-8")


def _record(task: str, color: str, question: str, answer: str) -> Example:
    path = f"my-pictures/{color}.png"
    turns = (Message("user", question), Message("assistant", answer))
    return Example(f"{task}-{color}", "en", task, turns, ImageRef(path=path), color, (answer,))


def _question(color: str) -> Example:
    return _record("vqa", color, "what color is the ring?", color)


def _caption(color: str) -> Example:
    return _record("caption", color, "Describe the picture.", f"There is a {color} ring.")


def _pairs() -> list[dict[str, str]]:
    return [
        {"id": "1", "source": "Two red stars.", "target": "两个红色星形。"},
        {"id": "2", "source": "Two red stars.", "target": "三个红色星形。"},
        {"id": "3", "source": "A dog on the grass.", "target": "Sure, here is the translation: 草地上的狗。"},
    ]


def _chat(color: str) -> dict[str, Any]:
    shown = {"type": "image_url", "image_url": {"url": f"my-pictures/{color}.png"}}
    said = [{"type": "text", "text": "what color is the ring?"}, shown]
    return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": color}]}


def _predictions(folder: Path) -> None:
    """Captions, answers and options of some other system, in the official forms."""
    images = [{"id": number} for number in range(3)]
    truth = [{"id": n, "image_id": n, "caption": f"a {COLORS[n]} ring"} for n in range(3)]
    write_json(folder / "captions_val.json", {"images": images, "annotations": truth})
    said = [{"image_id": n, "caption": f"a {COLORS[n]} star"} for n in range(3)]
    write_json(folder / "captions_mine.json", said)
    assert read_json(folder / "captions_mine.json") == said
    options = {"A": "red", "B": "blue"}
    rows = [{"index": n, **options, "answer": "A", "prediction": json.dumps("A")[1:-1]} for n in range(3)]
    write_jsonl(folder / "options.jsonl", rows)
