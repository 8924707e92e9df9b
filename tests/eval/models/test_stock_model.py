"""Stock image-text models answer as their own ``generate`` does, through their own processor and template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folders
import pytest
import tiny
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.records import Example, Message
from ziya_visual.infer.stock import StockModel

QUESTIONS = ("ring?", tiny.QUESTION, "图中有几个红色的圆环？")
IMAGES = {"a": tiny.picture(0), "b": tiny.picture(1).resize((40, 24))}
NEW = 7


def asked() -> list[Example]:
    turns = [(Message("user", text),) for text in QUESTIONS]
    return [
        Example(f"{name}{number}", "en", "vqa", (*turn, Message("assistant", "?")), image_id=name)
        for name in IMAGES
        for number, turn in enumerate(turns)
    ]


def alone(folder: Path, example: Example) -> str:
    """What anybody gets with a few lines of transformers."""
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    text, image = example.messages[0].content, IMAGES[str(example.image_id)]
    if processor.chat_template:
        parts: list[Any] = [{"type": "image"}, {"type": "text", "text": text}]
        text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")
    found = model.eval().generate(**inputs, max_new_tokens=NEW, do_sample=False)
    said: str = processor.batch_decode(found[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    return said


@pytest.mark.parametrize(("make", "plain"), [(folders.blip2, True), (folders.llava, False)])
def test_a_mixed_batch_answers_as_stock_does_alone(tmp_path: Path, make: Any, plain: bool) -> None:
    make(tmp_path)
    model = StockModel.from_pretrained(tmp_path)
    assert model.plain is plain
    found = model.answer(asked(), max_new_tokens=NEW, images=IMAGES)
    assert found == [alone(tmp_path, example) for example in asked()]
    assert len(set(found)) > 3, "the answers depend on picture and question"


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no image-text model of transformers"):
        StockModel.from_pretrained(tmp_path)
    tiny.llm_folder(tmp_path / "text")
    with pytest.raises(CheckpointError, match="no image-text model of transformers") as told:
        StockModel.from_pretrained(tmp_path / "text")
    assert "\n" not in str(told.value)
    folders.blip2(tmp_path / "blind")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / "blind" / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError):
        StockModel.from_pretrained(tmp_path / "blind")


def test_half_precision_stays_half(tmp_path: Path) -> None:
    model = folders.llava(tmp_path / "whole").to(torch.bfloat16)
    folders.llava(tmp_path)
    model.save_pretrained(tmp_path)
    opened = StockModel.from_pretrained(tmp_path)
    assert opened.model.dtype == torch.bfloat16
    assert len(opened.answer(asked()[:2], max_new_tokens=2, images=IMAGES)) == 2
