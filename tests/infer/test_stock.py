"""A checkpoint is a stock citizen: opened without this package it gives the answers that it gives with it."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import seeing
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Blip2ForConditionalGeneration,
    Blip2Processor,
)

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.core.files import read_json, write_json
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.model.processor import ZiyaProcessor

LENGTH = 24
QUESTIONS = [
    "What color is the ring?",
    "How many? Answer briefly.",
    "Describe it.",
    "图片里有什么？",
    "</s><image>",
]
STRANGER = Path(__file__).parents[1] / "fixtures" / "stranger.py"


@pytest.fixture(scope="module")
def ours(tokenizer: Any) -> ZiyaVisual:
    return seeing(tokenizer)


@pytest.fixture(scope="module")
def folder(ours: ZiyaVisual, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stock") / "checkpoint"
    save_checkpoint(path, model=ours.model, alignment=ours.alignment, processor=ours.processor)
    return path


def about(question: str, *sources: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": source} for source in sources]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@pytest.mark.slow
def test_without_this_package_the_answers_are_the_same(
    ours: ZiyaVisual, folder: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(str(tmp_path / f"{number}.png"))
        picture.save(paths[-1])
    asked = [about(question, path) for question in QUESTIONS for path in paths]
    asked += [about("What?", *paths), about("你好")]
    command = [sys.executable, str(STRANGER), str(folder), str(LENGTH)]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, input=json.dumps(asked), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [ours.chat(path, question, max_new_tokens=LENGTH) for question in QUESTIONS for path in paths]
    expected += [
        ours.chat(paths, "What?", max_new_tokens=LENGTH),
        ours.chat(None, "你好", max_new_tokens=LENGTH),
    ]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    assert len(set(expected)) == len(expected), "each picture gets an answer of its own"
    for name in (
        "processor_config.json",
        "chat_template.jinja",
        "processing_ziya_visual.py",
        "chat_format.py",
    ):
        assert (folder.with_name("checkpoint-again") / name).read_text() == (folder / name).read_text()


def test_a_mixed_batch_gives_what_each_gives_alone(folder: Path, pictures: list[Image.Image]) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is ZiyaProcessor
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    asked = [about("What color is the ring?", *pictures), about("红色", pictures[1]), about("How many?")]
    common = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    together = processor.apply_chat_template(asked, **common)
    assert together["pixel_values"].shape == (4, 3, 16, 16)
    with torch.inference_mode():
        logits = model(**together).logits[:, -1]
        answers = model.generate(**together, max_new_tokens=LENGTH, do_sample=False)
        answers = processor.batch_decode(answers[:, together["input_ids"].shape[1] :])
        for row, conversation in enumerate(asked):
            alone = processor.apply_chat_template(conversation, **common)
            assert (model(**alone).logits[0, -1] - logits[row]).abs().max() <= 1e-5
            said = model.generate(**alone, max_new_tokens=LENGTH, do_sample=False)
            said = processor.batch_decode(said[:, alone["input_ids"].shape[1] :])[0]
            pad = processor.tokenizer.pad_token
            assert answers[row].removesuffix(pad * answers[row].count(pad)) == said


def test_text_first_and_tokens_later_is_the_same(folder: Path, pictures: list[Image.Image]) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    asked = [about("What?", *pictures[:2]), about("红色", pictures[2])]
    once = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)
    texts = processor.apply_chat_template(asked, add_generation_prompt=True)
    assert texts[0] == "<image><image><s><human>:What?\n<bot>:"
    twice = processor(images=[pictures[:2], pictures[2:]], text=texts)
    for key in once:
        assert torch.equal(torch.as_tensor(once[key]), torch.as_tensor(twice[key])), key
    habit = processor(images=pictures[2], text="<s><human>:红色\n<bot>:")
    assert habit["input_ids"][0] == [
        i for i, m in zip(once["input_ids"][1], once["attention_mask"][1], strict=True) if m
    ]


def test_the_stock_processor_serves_a_single_picture(
    ours: ZiyaVisual, folder: Path, pictures: list[Image.Image]
) -> None:
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": "红色?"}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=pictures[0], text=text, return_tensors="pt")
    found = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    said = processor.batch_decode(found[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert said == ours.chat(pictures[0], "红色?", max_new_tokens=LENGTH)


def test_pictures_come_in_every_stock_form(folder: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    clear = Image.new("RGBA", (20, 16), (255, 0, 0, 128))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    (tmp_path / "clear.png").write_bytes(buffer.getvalue())
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    half = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    parts = [
        {"type": "image", "image": clear},
        {"type": "image", "path": str(tmp_path / "clear.png")},
        {"type": "image", "url": uri},
        {"type": "image_url", "image_url": {"url": uri}},
    ]
    made = processor.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert torch.equal(made["pixel_values"], processor.pixels([half]).expand(4, -1, -1, -1))


def test_what_cannot_be_processed_is_told_in_one_line(folder: Path, pictures: list[Image.Image]) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    for call, text in (
        (lambda: processor.apply_chat_template(about("a"), tools=[{}]), "tools are not supported"),
        (lambda: processor.apply_chat_template(about("a"), chat_template="x"), "one chat format"),
        (
            lambda: processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}]),
            "'audio'",
        ),
        (
            lambda: processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}]}], tokenize=True
            ),
            "needs one of image, url, path, base64",
        ),
        (lambda: processor(images=pictures, text=["a", "b"]), "places for 0 images, but there are 3"),
        (lambda: processor(), "text, images, or both"),
    ):
        with pytest.raises(DataError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_settings_are_kept_and_checked(tokenizer: Any, tmp_path: Path) -> None:
    model = seeing(tokenizer, "inline")
    path = tmp_path / "checkpoint"
    save_checkpoint(path, model=model.model, alignment=model.alignment, processor=model.processor)
    assert load_checkpoint(path)[2].chat.image_position == "inline"
    settings = read_json(path / "processor_config.json")
    for key, value, text in (
        ("num_query_tokens", 9, r"processor_config\.json: .* are \(16, 9\), config\.json has \(16, 4\)"),
        ("image_position", "last", "image_position is 'last'"),
    ):
        write_json(path / "processor_config.json", {**settings, key: value})
        with pytest.raises(CheckpointError, match=text):
            load_checkpoint(path)
    (path / "processor_config.json").unlink()
    assert load_checkpoint(path)[2].num_query_tokens == 4, "a checkpoint of before"
