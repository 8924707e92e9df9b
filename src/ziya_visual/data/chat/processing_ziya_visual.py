"""A checkpoint's processor, images to pixels and dialogues to tokens, as a stock ``ProcessorMixin``.

``save_pretrained`` copies this file, ``chat_format.py`` and ``chat_template.py`` beside the weights as remote
code. People without this package open the folder with ``AutoProcessor.from_pretrained(DIR,
trust_remote_code=True)`` and run the same code, so the three files import nothing of ours but each other and
the error kinds.

Legend: N images, S their side in pixels, Q query tokens per image.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature, ProcessorMixin
from transformers.image_transforms import to_pil_image
from transformers.image_utils import load_image

from .chat_format import IMAGE, ChatFormat
from .chat_template import CheckpointError, DataError, Turn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SOURCES = ("image", "url", "path", "base64")  # keys under which a message's image part names its image
UNSUPPORTED = ("tools", "documents", "continue_final_message", "return_assistant_tokens_mask")


def normalise(images: np.ndarray, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.Tensor:
    """Normalize pixels: uint8[N, S, S, 3] -> float32[N, 3, S, S]."""
    array = (images.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


class ZiyaProcessor(ProcessorMixin):  # type: ignore[misc]
    """Tokenizer, chat format and image preprocessing of one checkpoint.

    >>> processor = AutoProcessor.from_pretrained(DIR, trust_remote_code=True)  # doctest: +SKIP
    >>> parts = [{"type": "image", "path": "scene.png"}, {"type": "text", "text": "How many rings?"}]
    >>> inputs = processor.apply_chat_template(  # doctest: +SKIP
    ...     [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True,
    ...     return_dict=True, return_tensors="pt",
    ... )
    >>> model.generate(**inputs)  # doctest: +SKIP
    """

    _auto_class = "AutoProcessor"  # saving writes this module and ``auto_map``

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any = None,
        image_size: int | None = None,
        num_query_tokens: int | None = None,
        image_position: str = "first",
        chat_template: Any = None,
    ) -> None:
        """Join tokenizer and image processor.

        Args:
            tokenizer: a fast tokenizer with a chat template and an ``<image>`` token.
            image_processor: a stock BLIP image processor, whose size, mean and standard deviation are used;
                without it one of ``image_size`` is made.
            image_size: S, if there is no ``image_processor``.
            num_query_tokens: Q.
            image_position: where image tokens go: ``first`` or ``inline``.
            chat_template: replaces the tokenizer's.
        """
        if num_query_tokens is None or (image_processor is None and image_size is None):
            raise CheckpointError("processor_config.json: num_query_tokens or the image's size is missing")
        if image_processor is None:
            from transformers import BlipImageProcessorPil

            side = {"height": image_size, "width": image_size}
            image_processor = BlipImageProcessorPil(size=side, image_mean=list(MEAN), image_std=list(STD))
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        self.num_query_tokens = num_query_tokens
        self.image_position = image_position
        self.image_token = IMAGE
        self.chat = ChatFormat(tokenizer, image_position=image_position)
        self.image_token_id = self.chat.image_id
        super().__init__(tokenizer, image_processor, chat_template=tokenizer.chat_template)

    @property
    def image_size(self) -> int:
        """Return S, in pixels."""
        return int(self.image_processor.size["height"])

    @image_size.setter
    def image_size(self, side: int) -> None:
        self.image_processor.size = {"height": side, "width": side}

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Resize (bicubic) and normalize RGB images of any size to float32[N, 3, S, S], as BLIP-2 does.

        Pillow resizes, whatever the stock image processor's backend: another one gives other answers.
        """
        size = (self.image_size, self.image_size)
        arrays = [
            np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))
            for image in images
        ]
        return self.normalise(np.stack(arrays))

    def normalise(self, images: np.ndarray) -> torch.Tensor:
        """Normalize uint8[N, S, S, 3] to float32[N, 3, S, S] by the checkpoint's mean and deviation."""
        return normalise(images, self.image_processor.image_mean, self.image_processor.image_std)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render dialogues in stock form as text, or encode them as the model's input.

        Args:
            conversation: a list of messages, or a list of such lists. Their content is a string or a list of
                ``{"type": "text", "text": ...}`` and ``{"type": "image", "image" | "url" | "path": ...}``.
            chat_template: not supported, since a checkpoint has one format.
            add_generation_prompt: end where the assistant begins to speak.
            tokenize: return tokens instead of text. A message's text never becomes a special token.
            return_dict: return a mapping with ``pixel_values``.
            return_tensors: ``pt``, ``np`` or None.
            kwargs: stock arguments without effect here; batches are always padded on the left.
        """
        if refused := [name for name in UNSUPPORTED if kwargs.get(name)]:
            raise DataError(f"apply_chat_template: {', '.join(refused)} are not supported by this processor")
        if chat_template not in (None, self.chat_template):
            raise DataError(
                "apply_chat_template: this checkpoint has one chat format; leave chat_template out"
            )
        many = bool(conversation) and not isinstance(conversation[0], dict)
        dialogues = [_parse_messages(messages) for messages in (conversation if many else [conversation])]
        if not tokenize:
            texts = [
                self.chat.render(turns, num_images=len(sources), add_generation_prompt=add_generation_prompt)
                for turns, sources in dialogues
            ]
            return texts if many else texts[0]
        rows = [
            self.chat.encode(
                turns,
                num_image_tokens=self.num_query_tokens if sources else 0,
                num_images=len(sources),
                add_generation_prompt=add_generation_prompt,
            ).ids
            for turns, sources in dialogues
        ]
        images = [_open(source) for _, sources in dialogues for source in sources]
        batch = self._batch(rows, images, None if return_tensors == "auto" else return_tensors)
        return batch if return_dict else batch["input_ids"]

    def __call__(
        self, images: Any = None, text: Any = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Encode texts as ``apply_chat_template`` writes them, and their images, as the model's input.

        Each ``<image>`` in a text is an image's place. Texts without any begin with one image each, as in
        stock ``Blip2Processor``; a single text may begin with several.

        Args:
            images: images, paths or URLs, also nested, in the order of their places.
            text: one text or several.
            return_tensors: ``pt``, ``np`` or None.
            kwargs: ``add_special_tokens`` goes to the tokenizer; by default it adds its own unless the text
                begins with them. Others have no effect; batches are always padded on the left.
        """
        opened = [_open(source) for source in _flat(images)]
        if text is None:
            if not opened:
                raise DataError("give the processor text, images, or both")
            return BatchFeature({"pixel_values": self.pixels(opened)}, tensor_type=return_tensors)
        texts = [text] if isinstance(text, str) else list(text)
        places = sum(text.count(IMAGE) for text in texts)
        if not places and opened and (len(texts) == 1 or len(texts) == len(opened)):
            places = len(opened)
            texts = [IMAGE * (places // len(texts)) + text for text in texts]
        if places != len(opened):
            raise DataError(f"the texts have places for {places} images, but there are {len(opened)}")
        return self._batch([self._text_ids(text, **kwargs) for text in texts], opened, return_tensors)

    def _text_ids(self, text: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenize a rendered text; leading images stay before the tokenizer's beginning-of-text token."""
        rest = re.sub(f"^({IMAGE})+", "", text)
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = bos is None or not rest.startswith(bos)
        head = (len(text) - len(rest)) // len(IMAGE)
        ids = self.tokenizer(rest, add_special_tokens=add_special_tokens)["input_ids"]
        return [
            token
            for i in [self.image_token_id] * head + ids
            for token in [i] * (self.num_query_tokens if i == self.image_token_id else 1)
        ]

    def _batch(
        self, rows: Sequence[list[int]], images: Sequence[Image.Image], tensors: str | None
    ) -> BatchFeature:
        """Pad rows of ids on the left and add all images in their order.

        Stock ``Blip2ForConditionalGeneration`` needs an image: without one it gets a blank image that no
        token refers to.
        """
        length = max(map(len, rows))
        data: dict[str, Any] = {
            "input_ids": [[self.chat.pad_id] * (length - len(row)) + row for row in rows],
            "attention_mask": [[0] * (length - len(row)) + [1] * len(row) for row in rows],
        }
        blank = torch.zeros(1, 3, self.image_size, self.image_size)
        data["pixel_values"] = self.pixels(images) if images else blank
        return BatchFeature(data, tensor_type=tensors)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write tokenizer, chat template, settings and remote code in stock file formats.

        The image settings go to ``processor_config.json`` and, for older readers, to a file of their own.
        """
        self.image_processor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


def _parse_messages(messages: Sequence[dict[str, Any]]) -> tuple[list[Turn], list[Any]]:
    """Return the turns of messages in stock form and the sources of their images."""
    turns, sources = [], []
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        text, places = "", []
        for part in content if isinstance(content, list) else [{}]:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                text += f"\n{part['text']}" if text else part["text"]
            elif kind in ("image", "image_url"):
                places.append(len(text))
                sources.append(_source(part))
            else:
                raise DataError(f"message {number}: a part must be of type text or image, found {kind!r}")
        turns.append(Turn(message["role"], text, tuple(places)))
    return turns, sources


def _source(part: dict[str, Any]) -> Any:
    if part["type"] == "image_url":
        url = part.get("image_url")
        return url.get("url") if isinstance(url, dict) else url
    return next((part[name] for name in SOURCES if name in part), None)


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [image for nested in images for image in _flat(nested)]
    return [images]


def _open(source: Any) -> Image.Image:
    """Open an image, array, path, URL or ``data:`` URI as RGB, rotated by EXIF, on a white background."""
    if source is None:
        raise DataError(f"an image part of a message needs one of {', '.join(SOURCES)}")
    if isinstance(source, str) and source.startswith("data:image/"):
        source = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    elif isinstance(source, str | os.PathLike):
        source = Image.open(source) if os.path.isfile(source) else load_image(str(source))
    elif not isinstance(source, Image.Image):
        source = to_pil_image(source)
    image = ImageOps.exif_transpose(source)
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return image.convert("RGB")
