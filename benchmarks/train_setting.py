"""The setting of ``benchmarks/train.py``: one network twice, ours and stock, and the same texts for both.

ViT-S of 21 M (224 px, patches of 16), a Q-Former of 6 layers of width 768 with 32 queries, a LLaMA of
110 M with 32 thousand words; random weights. ViT and LM are frozen. A picture has one caption in each of two
languages (20 to 40 tokens, mean 30) and otherwise short questions with answers (8 to 16, mean 12).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
)

from ziya_visual.data.chat.chat_format import Encoded
from ziya_visual.data.packing import IGNORE, Branch, Row, pack, pad
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.train.objectives import Batch

SIDE, QUERIES, IMAGE_ID, BOS, PAD, FIRST_WORD = 224, 32, 3, 1, 0, 4
PROMPT = {"caption": 5, "question": 8}  # of a text's first tokens nothing is learnt
LANGS = ("en", "zh")


def config() -> Blip2Config:
    """Return the config of both models, without dropout."""
    return Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6,
            image_size=SIDE, patch_size=16, initializer_range=0.02,
        ),
        qformer_config=Blip2QFormerConfig(
            hidden_size=768, num_hidden_layers=6, num_attention_heads=12, intermediate_size=3072,
            cross_attention_frequency=2, encoder_hidden_size=384,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        text_config=LlamaConfig(
            vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=PAD,
            bos_token_id=BOS,
        ),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_ID,
    )  # fmt: skip


def models() -> tuple[ZiyaVisualModel, Blip2ForConditionalGeneration]:
    """Build our model and stock with equal weights; Q-Former, query tokens and projection train."""
    torch.manual_seed(0)
    ours = ZiyaVisualModel(config())
    stock = Blip2ForConditionalGeneration(config())
    stock.load_state_dict(ours.state_dict())
    ours.set_attn_implementation(PLAIN)
    for model in (ours, stock):
        model.vision_model.requires_grad_(False)
        model.language_model.requires_grad_(False)
    return ours, stock


@dataclass(frozen=True)
class ImageTexts:
    """Images float32[N, 3, S, S] in [-1, 1], and the texts of each."""

    pixels: torch.Tensor
    texts: list[list[Branch]]

    def __len__(self) -> int:
        return len(self.texts)


def draw_image_texts(images: int, texts: int, *, seed: int = 0) -> ImageTexts:
    """Draw two captions and ``texts - 2`` questions for every image; a single text is a caption."""
    rng = np.random.default_rng(seed)
    texts_of_images = []
    for image in range(images):
        own = []
        for number in range(texts):
            kind = "caption" if number < 2 else "question"
            size = int(rng.integers(20, 41) if kind == "caption" else rng.integers(8, 17))
            ids = rng.integers(FIRST_WORD, 32_000, size).tolist()
            prompt = min(PROMPT[kind], size - 2)
            learnt = [False] * prompt + [True] * (size - prompt)
            own.append(Branch(Encoded(ids, learnt), (image + number) % 2))
        texts_of_images.append(own)
    return ImageTexts(
        torch.from_numpy(rng.uniform(-1, 1, (images, 3, SIDE, SIDE)).astype(np.float32)), texts_of_images
    )


@dataclass(frozen=True)
class Packed(Dataset[Batch]):
    """Our batches: the images of each step with their packed texts."""

    data: ImageTexts
    images_per_step: int

    def __len__(self) -> int:
        return len(self.data) // self.images_per_step

    def __getitem__(self, step: int) -> Batch:
        rows = np.arange(self.images_per_step) + step % len(self) * self.images_per_step
        prefix = [IMAGE_ID] * QUERIES + [BOS]
        texts = pack([Row(prefix, self.data.texts[row]) for row in rows])
        return Batch(rows, texts, {}, int((texts.labels != IGNORE).sum()))


class Single(Dataset[dict[str, Any]]):
    """The samples of stock: an image with one of its texts."""

    def __init__(self, data: ImageTexts) -> None:
        self._pixels = data.pixels
        self._records = [(row, branch) for row, texts in enumerate(data.texts) for branch in texts]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, branch = self._records[index]
        prefix = [IMAGE_ID] * QUERIES + [BOS]
        learnt = [False] * len(prefix) + branch.encoded.supervised
        ids = [*prefix, *branch.encoded.ids]
        labels = [token if learn else IGNORE for token, learn in zip(ids, learnt, strict=True)]
        return {"pixel_values": self._pixels[row], "input_ids": ids, "labels": labels}


def collate(records: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad the samples to the longest of the batch."""
    ids, mask = pad([record["input_ids"] for record in records], PAD)
    labels, _ = pad([record["labels"] for record in records], IGNORE)
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    pixels = torch.stack([record["pixel_values"] for record in records])
    return {"pixel_values": pixels, **{name: torch.from_numpy(array) for name, array in arrays.items()}}
