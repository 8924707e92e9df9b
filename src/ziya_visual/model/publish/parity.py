"""Parity: an exported folder is held against our own network before anybody gets to see it.

Ten prompts, five in each language, three of these about a picture each: the logits of every position by our
packed forward, by the stock class one prompt at a time, and by the stock class eight at a time.

Legend: L tokens of a prompt, V vocabulary, S a picture's side in pixels, Q query tokens.
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
from ziya_visual.data.packing import Branch, Row, pack
from ziya_visual.data.text_batch import pad, text_batch
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.packed.forward import packed_hidden_states
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.scenes.drawing import render, sample_scene

TOLERANCE = 1e-4  # in a logit, fp32
TOGETHER = 8
SHOWN = 3  # of each language's prompts, the first have a picture
PROMPTS = {
    "en": ("What is in the picture?", "How many things are there?", "Describe it.", "Who are you?", "Hello."),
    "zh": ("图中有什么？", "一共有几个物体？", "请描述这张图片。", "你是谁？", "你好。"),
}
TEXTS = [text for texts in PROMPTS.values() for text in texts]
Difference = dict[str, float]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with a picture's placeholders, and float32[1, 3, S, S] or None."""

    ids: list[int]
    pixels: Tensor | None


def pictures(count: int) -> list[Image.Image]:
    """Drawn scenes, always the same."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(render(sample_scene(rng, held_out=False))) for _ in range(count)]


def prompts(processor: ZiyaProcessor) -> list[Prompt]:
    """The ten, ready for the network."""
    drawn = iter(pictures(SHOWN * len(PROMPTS)))
    found = []
    for texts in PROMPTS.values():
        for number, text in enumerate(texts):
            shown = number < SHOWN
            encoded = processor.chat.encode(
                (Message("user", text),),
                num_image_tokens=processor.num_query_tokens if shown else 0,
                add_generation_prompt=True,
            )
            found.append(Prompt(encoded.ids, processor.pixels([next(drawn)]) if shown else None))
    return found


@torch.inference_mode()
def our_logits(model: ZiyaVisualModel, asked: Sequence[Prompt], *, pad_id: int) -> list[Tensor]:
    """float32[L, V] of each prompt, alone, through our packed forward."""
    found = []
    for prompt in asked:
        batch = pack([Row((), (Branch(Encoded(prompt.ids, [False] * len(prompt.ids))),))])
        prefix = None
        if prompt.pixels is not None:
            prefix = model.image_prefix(model.query_images(model.encode_images(prompt.pixels)))
        states = packed_hidden_states(
            model.language_model, batch, image_id=model.image_id, image_prefix=prefix
        )
        found.append(model.get_output_embeddings()(states).float())
    return found


@torch.inference_mode()
def stock_logits(stock: Any, asked: Sequence[Prompt], *, pad_id: int, together: int = 1) -> list[Tensor]:
    """float32[L, V] of each prompt by ``Blip2ForConditionalGeneration``, ``together`` in a batch."""
    found: dict[int, Tensor] = {}
    side = stock.config.vision_config.image_size
    for start in range(0, len(asked), together):
        first = min(start, len(asked) - together)  # the last batch is as full as the others
        some = asked[first : first + together]
        ids, mask = pad([prompt.ids for prompt in some], pad_id)
        shown = [prompt.pixels for prompt in some if prompt.pixels is not None]
        logits = stock(
            pixel_values=torch.cat(shown) if shown else torch.zeros(1, 3, side, side),
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
        ).logits.float()
        found |= {first + row: logits[row, : len(prompt.ids)] for row, prompt in enumerate(some)}
    return [found[number] for number in range(len(asked))]


@torch.inference_mode()
def our_scores(
    model: ZiyaVisualModel,
    alignment: Alignment,
    processor: ZiyaProcessor,
    images: Sequence[Image.Image],
    texts: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """Contrastive float32[N, M], the best query's cosine; matching float32[N, 2], picture i with text i.

    There must be at least as many texts as pictures.
    """
    limit = model.config.qformer_config.max_position_embeddings
    arrays = text_batch(texts, limit=limit, chat=processor.chat, own=alignment.qformer_tokenizer)
    ids, mask = map(torch.from_numpy, arrays)
    embeds = model.encode_images(processor.pixels(images))
    features = alignment.image_features(model.query_images(embeds))
    similarity = (features @ alignment.text_features(model, ids, mask).T).amax(1)
    pairs = len(images)
    return similarity, alignment.matching_logits(model, embeds, ids[:pairs], mask[:pairs])


@torch.inference_mode()
def stock_scores(
    stock: Any, processor: Any, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The same by the stock class and the stock processor."""
    inputs = processor(images=list(images), text=list(texts), padding=True, return_tensors="pt")
    similarity = stock(**inputs).logits_per_image
    pairs = {name: tensor[: len(images)] for name, tensor in inputs.items()}
    return similarity, stock(**pairs, use_image_text_matching_head=True).logits_per_image


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> Difference:
    """The largest and the mean absolute difference over all numbers of all prompts."""
    apart = torch.cat([(a - b).abs().flatten() for a, b in zip(one, other, strict=True)])
    return {"max": float(apart.max()), "mean": float(apart.mean())}


def same_choice(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Percent of positions whose likeliest token is the same."""
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(one, other, strict=True)])
    return 100 * float(same.float().mean())


def refuse_above(folder: Path, differences: dict[str, Difference]) -> None:
    """Let nothing pass that is further apart than ``TOLERANCE``, or not a number.

    Raises:
        CheckpointError: which comparison, by how much.
    """
    for name, found in differences.items():
        if not math.isfinite(found["max"]) or found["max"] > TOLERANCE:
            raise CheckpointError(
                f"{folder}: not written, for {name.replace('_', ' ')} is {found['max']:.2e} apart, "
                f"expected at most {TOLERANCE:.0e}"
            )
