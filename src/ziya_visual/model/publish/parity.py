"""Parity checks: an exported folder must give the same numbers as our own network before it is kept.

Ten prompts, five per language, three of these with an image each: the logits at every position by our packed
forward, by the stock class one prompt at a time, and by the stock class eight at a time. A retrieval folder
is compared by the scores of ten images and texts.

Legend: L tokens of a prompt, V vocabulary, S image side in pixels, N images and texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import Encoded
from ziya_visual.data.packing import Branch, Row, pack, pad, text_batch
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.packed.forward import packed_hidden_states
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.scenes.drawing import render, sample_scene

TOLERANCE = 1e-4  # of a logit in fp32
BATCH_SIZE = 8
WITH_IMAGE = 3  # the first prompts of each language
PROMPTS = {
    "en": ("What is in the picture?", "How many things are there?", "Describe it.", "Who are you?", "Hello."),
    "zh": ("图中有什么？", "一共有几个物体？", "请描述这张图片。", "你是谁？", "你好。"),
}
TEXTS = [text for texts in PROMPTS.values() for text in texts]
Difference = dict[str, float]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with an image's placeholders, and float32[1, 3, S, S] or None."""

    ids: list[int]
    pixels: Tensor | None


def images(count: int) -> list[Image.Image]:
    """Draw scenes, the same in every call."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(render(sample_scene(rng, held_out=False))) for _ in range(count)]


def prompts(processor: ZiyaProcessor) -> list[Prompt]:
    """Encode the ten prompts for the network."""
    scenes = iter(images(WITH_IMAGE * len(PROMPTS)))
    encoded_prompts = []
    for texts in PROMPTS.values():
        for number, text in enumerate(texts):
            has_image = number < WITH_IMAGE
            encoded = processor.chat.encode(
                (Message("user", text),),
                num_image_tokens=processor.num_query_tokens if has_image else 0,
                add_generation_prompt=True,
            )
            pixels = processor.pixels([next(scenes)]) if has_image else None
            encoded_prompts.append(Prompt(encoded.ids, pixels))
    return encoded_prompts


@torch.inference_mode()
def our_logits(model: ZiyaVisualModel, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Return float32[L, V] of each prompt alone, by our packed forward."""
    logits = []
    for prompt in prompts:
        batch = pack([Row((), (Branch(Encoded(prompt.ids, [False] * len(prompt.ids))),))])
        prefix = None
        if prompt.pixels is not None:
            prefix = model.image_prefix(model.query_images(model.encode_images(prompt.pixels)))
        hidden = packed_hidden_states(
            model.language_model, batch, image_id=model.image_id, image_prefix=prefix
        )
        logits.append(model.get_output_embeddings()(hidden).float())
    return logits


@torch.inference_mode()
def stock_logits(stock: Any, prompts: Sequence[Prompt], *, pad_id: int, batch_size: int = 1) -> list[Tensor]:
    """Return float32[L, V] of each prompt by ``Blip2ForConditionalGeneration``."""
    by_number: dict[int, Tensor] = {}
    side = stock.config.vision_config.image_size
    for start in range(0, len(prompts), batch_size):
        first = min(start, len(prompts) - batch_size)  # the last batch is as full as the others
        batch = prompts[first : first + batch_size]
        ids, mask = pad([prompt.ids for prompt in batch], pad_id)
        pixels = [prompt.pixels for prompt in batch if prompt.pixels is not None]
        logits = stock(
            pixel_values=torch.cat(pixels) if pixels else torch.zeros(1, 3, side, side),
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
        ).logits.float()
        by_number |= {first + row: logits[row, : len(prompt.ids)] for row, prompt in enumerate(batch)}
    return [by_number[number] for number in range(len(prompts))]


@torch.inference_mode()
def our_scores(
    model: ZiyaVisualModel, alignment: Alignment, processor: ZiyaProcessor, images: Sequence[Image.Image]
) -> tuple[Tensor, Tensor]:
    """Return contrastive and matching scores of N images and ``TEXTS``, float32[N, N] and float32[N, 2].

    A contrastive score is the best query's cosine; matching pairs image i with text i.
    """
    limit = model.config.qformer_config.max_position_embeddings
    arrays = text_batch(TEXTS, limit=limit, chat=processor.chat, own=alignment.qformer_tokenizer)
    ids, mask = map(torch.from_numpy, arrays)
    embeds = model.encode_images(processor.pixels(images))
    features = alignment.image_features(model.query_images(embeds))
    similarity = (features @ alignment.text_features(model, ids, mask).T).amax(1)
    return similarity, alignment.matching_logits(model, embeds, ids, mask)


@torch.inference_mode()
def stock_scores(stock: Any, processor: Any, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Return the scores of :func:`our_scores` by the stock class and the stock processor."""
    inputs = processor(images=list(images), text=TEXTS, padding=True, return_tensors="pt")
    similarity = stock(**inputs).logits_per_image
    return similarity, stock(**inputs, use_image_text_matching_head=True).logits_per_image


def difference(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Difference:
    """Return the largest and the mean absolute difference over all numbers."""
    absolute = torch.cat([(a - b).abs().flatten() for a, b in zip(tensors, others, strict=True)])
    return {"max": float(absolute.max()), "mean": float(absolute.mean())}


def same_choice(logits: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the percentage of positions with the same likeliest token."""
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(logits, others, strict=True)])
    return 100 * float(same.float().mean())


def refuse_above(folder: Path, differences: dict[str, Difference]) -> None:
    """Require every difference to be at most ``TOLERANCE``; name the first comparison that fails."""
    for name, values in differences.items():
        if not math.isfinite(values["max"]) or values["max"] > TOLERANCE:
            raise CheckpointError(
                f"{folder}: not exported: {name.replace('_', ' ')} differs by {values['max']:.2e}, expected "
                f"at most {TOLERANCE:.0e}"
            )
