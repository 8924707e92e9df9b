"""Batches of several sources: drawn by temperature, counted exactly, put in many words."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_models import tiny_tokenizer

from ziya_visual.core.records import Box, Example, ImageRef, Message
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.batches import Batches, group_by_image

SIZES = {"coco": 40, "vqa": 4, "cn": 3}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def records(folder: Path) -> list[Example]:
    path = folder / "a.png"
    Image.new("RGB", (100, 50)).save(path)
    rows = []
    for source, size in SIZES.items():
        lang = "zh" if source == "cn" else "en"
        for number in range(size):
            name = f"{source}{number}"
            common: dict[str, Any] = {"image": ImageRef(path=str(path)), "image_id": name, "source": source}
            answer = (Message("assistant", f"picture {number}"),)
            question = (Message("user", "What color?"), Message("assistant", "red"))
            rows.append(Example(f"{name}c", lang, "caption", answer, **common))
            rows.append(Example(f"{name}q", lang, "vqa", question, **common))
            box = (Box("ring", (10, 5, 60, 25)),)
            rows.append(Example(f"{name}g", lang, "grounded", answer, boxes=box, **common))
    return rows


def batches(folder: Path, tokenizer: Any, **more: Any) -> Batches:
    chat = ZiyaProcessor(tokenizer, image_size=16, num_query_tokens=4).chat
    return Batches(
        group_by_image(records(folder)), chat, tasks={"caption": 1.0, "vqa": 1.0, "grounded": 1.0},
        images_per_step=8, texts_per_image=3, num_image_tokens=4, seed=5, max_caption_tokens=16, **more,
    )  # fmt: skip


def test_small_sources_are_upsampled_and_draws_are_counted(tmp_path: Path, tokenizer: Any) -> None:
    mixed = batches(tmp_path, tokenizer, temperature=2.0)
    sources = [source for source, size in SIZES.items() for _ in range(size)]
    steps = 60
    rows = [row for step in range(steps) for row in mixed[step].images]
    counted = Counter(sources[row] for row in rows)
    report = {row["name"]: row for row in mixed.mixture_report(steps)}
    assert {name: row["drawn"] for name, row in report.items()} == counted
    assert report["cn"]["share"] == 0.5, "Chinese as often as English"
    assert report["vqa"]["share"] == pytest.approx(0.5 * 2 / (2 + 40**0.5))
    for source in SIZES:
        own = Counter(row for row in rows if sources[row] == source)
        assert max(own.values()) - min(own.values()) <= 1
    again = batches(tmp_path, tokenizer, temperature=2.0)
    for step in (59, 3, 30):
        assert (again[step].images == mixed[step].images).all()
    assert batches(tmp_path, tokenizer).mixture_report(steps) == []


def test_varied_phrasings_word_a_task_in_many_ways(tmp_path: Path, tokenizer: Any) -> None:
    def prompts(varied: bool) -> set[str]:
        sampled = batches(tmp_path, tokenizer, varied=varied)
        texts = [sampled[step].texts for step in range(12)]
        decode = sampled.chat.tokenizer.decode
        prompt_texts = set()
        for packed in texts:
            assert packed is not None
            prompt_texts |= {part.split("<bot>")[0] for part in decode(packed.input_ids).split("<human>:")}
        return prompt_texts

    plain, varied = prompts(False), prompts(True)
    assert len(varied) > 2 * len(plain)
    assert any("[100, 100, 600, 500]" in text for text in varied), "a region's box, in thousandths"
