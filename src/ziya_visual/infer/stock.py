"""Models that are not ours: any ``AutoModelForImageTextToText`` folder, through its own processor.

They stand in an evaluation beside ours, so they are asked as their authors ask them. What their processor
makes of a picture and a question is theirs to say: each question is a row of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from ziya_visual.core.errors import CheckpointError, DataError, one_line
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.records import Example, Message

ROWS = 16  # questions that are answered together, padded on the left
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError)


class StockModel:
    """A stock vision-language model that answers greedily.

    Attributes:
        plain: it has no chat template, and reads a question as it stands (BLIP-2, InstructBLIP).
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        self.plain = not getattr(processor, "chat_template", None)
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        for name in ("temperature", "top_p", "top_k"):  # greedy search warns of each that a checkpoint sets
            setattr(model.generation_config, name, None)

    @staticmethod
    def from_pretrained(folder: Path, *, device: torch.device | str = "cpu") -> StockModel:
        """Open a folder of transformers, weights in the dtype they were saved in.

        Raises:
            CheckpointError: model or processor cannot be read, in one line; code in a folder is never run.
        """
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
            processor = AutoProcessor.from_pretrained(folder)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{folder}: no image-text model of transformers ({one_line(error, 160)})"
            ) from error
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise CheckpointError(
                f"{folder}: its processor is {type(processor).__name__}, expected one of pictures and text; "
                "is preprocessor_config.json there?"
            )
        return StockModel(model.to(device), processor)

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image.Image] | None = None,
    ) -> list[str]:
        """Greedy answers to what stands before each record's last assistant turn.

        Args:
            examples: all with a picture.
            max_new_tokens: for each.
            images: pictures by ``image_id``; without it each record's own is opened.

        Raises:
            DataError: its processor cannot make an input of them.
        """
        said: list[str] = []
        for start in range(0, len(examples), ROWS):
            some = examples[start : start + ROWS]
            pictures = [open_picture(e) if images is None else images[str(e.image_id)] for e in some]
            said += self._answer([example.prompt_turns for example in some], pictures, max_new_tokens)
        return said

    @torch.inference_mode()
    def _answer(
        self, dialogues: Sequence[Sequence[Message]], pictures: Sequence[Image.Image], limit: int
    ) -> list[str]:
        try:
            inputs = self._inputs(dialogues, pictures)
        except _UNREADABLE as error:
            raise DataError(
                f"the model's own processor refuses a question ({one_line(error, 160)})"
            ) from error
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        ids = inputs["input_ids"]
        found = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        if found.shape[1] >= ids.shape[1] and torch.equal(found[:, : ids.shape[1]], ids):
            found = found[:, ids.shape[1] :]  # an encoder-decoder gives the answer alone
        texts: list[str] = self.processor.batch_decode(found, skip_special_tokens=True)
        return texts

    def _inputs(self, dialogues: Sequence[Sequence[Message]], pictures: Sequence[Image.Image]) -> Any:
        if self.plain:
            texts = ["\n".join(turn.content for turn in dialogue) for dialogue in dialogues]
            return self.processor(images=list(pictures), text=texts, padding=True, return_tensors="pt")
        conversations = [_shown(*pair) for pair in zip(dialogues, pictures, strict=True)]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


def _shown(dialogue: Sequence[Message], picture: Image.Image) -> list[dict[str, Any]]:
    """Stock's form of a dialogue, the picture in its first user turn."""
    first = next((place for place, turn in enumerate(dialogue) if turn.role == "user"), 0)
    return [
        {
            "role": turn.role,
            "content": ([{"type": "image", "image": picture}] if place == first else [])
            + [{"type": "text", "text": turn.content}],
        }
        for place, turn in enumerate(dialogue)
    ]
