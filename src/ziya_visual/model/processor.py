"""Pictures to pixels, dialogues to tokens: what a checkpoint needs around its network.

The image side is stock ``BlipImageProcessorPil`` in its own file format, the text side our
:class:`ChatFormat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziya_visual.data.chat_format import ChatFormat

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ZiyaProcessor:
    """Tokenizer, chat format and image preprocessing of one checkpoint."""

    def __init__(self, tokenizer: Any, *, image_size: int, num_query_tokens: int) -> None:
        """Take a fast tokenizer, the side of the square picture in pixels, and Q."""
        self.tokenizer = tokenizer
        self.chat = ChatFormat(tokenizer)
        self.image_size = image_size
        self.num_query_tokens = num_query_tokens

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any size -> float32[B, 3, S, S], resized (bicubic), normalised as BLIP-2 does."""
        size = (self.image_size, self.image_size)
        arrays = [
            np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))
            for picture in pictures
        ]
        return normalise(np.stack(arrays))

    def save(self, folder: Path) -> None:
        """Write tokenizer, chat template and image settings in stock file formats."""
        from transformers import BlipImageProcessorPil

        self.tokenizer.save_pretrained(folder)
        side = {"height": self.image_size, "width": self.image_size}
        BlipImageProcessorPil(size=side, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)


def normalise(pictures: np.ndarray) -> Tensor:
    """uint8[B, S, S, 3] -> float32[B, 3, S, S]."""
    array = (pictures.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
