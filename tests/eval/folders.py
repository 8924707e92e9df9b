"""Tiny random checkpoints: ours, and stock ones with the processors that their authors give them; a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
from PIL import Image
from transformers import (
    Blip2Processor,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ziya_visual.core.files import write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.model.network import Alignment

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def blip2(folder: Path) -> Any:
    """BLIP-2 as published: no chat template; returns the model."""
    model = tiny.blip2_folder(folder)
    pictures = BlipImageProcessorPil(size={"height": tiny.SIDE, "width": tiny.SIDE})
    Blip2Processor(pictures, tiny.tokenizer(image=True), num_query_tokens=tiny.QUERIES).save_pretrained(
        folder
    )
    return model


def llava(folder: Path) -> Any:
    """LLaVA: a CLIP vision tower and a LLaMA, a chat template; returns the model."""
    words = tiny.tokenizer(image=True)
    vision = CLIPVisionConfig(**{**tiny.VISION, "initializer_range": 0.02}, projection_dim=16)
    config = LlavaConfig(
        vision_config=vision,
        text_config=tiny.lm_config("llama", len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    model = tiny.shaken(LlavaForConditionalGeneration(config))
    model.save_pretrained(folder)
    size = {"height": tiny.SIDE, "width": tiny.SIDE}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size)
    LlavaProcessor(
        pictures,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return model


def ours(folder: Path) -> None:
    """A checkpoint of ours whose answers and scores depend on what it sees."""
    tiny.blip2_folder(folder / "stock")
    model, _, processor = load_checkpoint(folder / "stock")
    alignment = Alignment(model.config.qformer_config, projection_size=model.config.image_text_hidden_size)
    save_checkpoint(folder, model=model, alignment=tiny.shaken(alignment), processor=processor)


def pictures(folder: Path, count: int) -> list[Image.Image]:
    """Coloured noise in files ``0.png`` ...; the first has the sides of a photo."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [tiny.picture(seed).resize((40, 24) if seed == 0 else (16, 16)) for seed in range(count)]
    for number, picture in enumerate(found):
        picture.save(folder / f"{number}.png")
    return found


def suite(folder: Path, count: int = 6) -> Path:
    """Two questions and a caption a picture in both languages, as JSONL beside the pictures."""
    pictures(folder, count)
    asked = []
    for number in range(count):
        for lang, question in (("en", "what color is the ring?"), ("zh", "图中有几个红色的圆环？")):
            image, name = ImageRef(path=f"{number}.png"), f"{number}.png"
            for place in range(2):
                turns = (Message("user", question[place:]), Message("assistant", "red"))
                asked.append(
                    Example(f"{number}-{lang}-{place}", lang, "vqa", turns, image, name, ("red", "红色"))
                )
            told = f"{number} {'ring ' * number}above a blue square"
            turns = (Message("user", question), Message("assistant", told))
            asked.append(Example(f"{number}-{lang}-c", lang, "caption", turns, image, name, (told,)))
    write_records(folder / "suite.jsonl", asked)
    return folder / "suite.jsonl"
