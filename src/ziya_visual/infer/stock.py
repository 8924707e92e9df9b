"""Any stock ``AutoModelForImageTextToText`` folder, used through its own processor.

Evaluations compare these models with ours, so they are prompted as their authors do, one row per question.
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

BATCH_SIZE = 16  # questions answered together, padded on the left
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError)


class StockModel:
    """A stock vision-language model that answers greedily."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        # A model without a chat template reads the bare question (BLIP-2, InstructBLIP).
        self.plain = not getattr(processor, "chat_template", None)
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        for name in ("temperature", "top_p", "top_k"):  # greedy search warns about these if they are set
            setattr(model.generation_config, name, None)

    @staticmethod
    def from_pretrained(folder: Path, *, device: torch.device | str = "cpu") -> StockModel:
        """Open a folder of transformers, keeping the saved dtype; code in the folder is never run."""
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
            processor = AutoProcessor.from_pretrained(folder)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{folder}: no image-text model of transformers ({one_line(error, 160)})"
            ) from error
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise CheckpointError(
                f"{folder}: its processor is {type(processor).__name__}, expected one for images and text; "
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
        """Answer each record's dialogue before its last assistant turn; see :meth:`ZiyaVisual.answer`."""
        answers: list[str] = []
        for start in range(0, len(examples), BATCH_SIZE):
            batch = examples[start : start + BATCH_SIZE]
            opened = [open_picture(e) if images is None else images[str(e.image_id)] for e in batch]
            answers += self._answer([example.prompt_turns for example in batch], opened, max_new_tokens)
        return answers

    @torch.inference_mode()
    def _answer(
        self, dialogues: Sequence[Sequence[Message]], images: Sequence[Image.Image], max_new_tokens: int
    ) -> list[str]:
        try:
            inputs = self._inputs(dialogues, images)
        except _UNREADABLE as error:
            raise DataError(
                f"the model's own processor refuses a question ({one_line(error, 160)})"
            ) from error
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        ids = inputs["input_ids"]
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        if tokens.shape[1] >= ids.shape[1] and torch.equal(tokens[:, : ids.shape[1]], ids):
            tokens = tokens[:, ids.shape[1] :]  # an encoder-decoder returns only the answer
        texts: list[str] = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _inputs(self, dialogues: Sequence[Sequence[Message]], images: Sequence[Image.Image]) -> Any:
        if self.plain:
            texts = ["\n".join(turn.content for turn in dialogue) for dialogue in dialogues]
            return self.processor(images=list(images), text=texts, padding=True, return_tensors="pt")
        conversations = [_conversation(*pair) for pair in zip(dialogues, images, strict=True)]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


def _conversation(dialogue: Sequence[Message], image: Image.Image) -> list[dict[str, Any]]:
    """Return a dialogue in stock format, with the image in its first user turn."""
    first = next((index for index, turn in enumerate(dialogue) if turn.role == "user"), 0)
    shown = {first: [{"type": "image", "image": image}]}
    return [
        {"role": turn.role, "content": [*shown.get(index, []), {"type": "text", "text": turn.content}]}
        for index, turn in enumerate(dialogue)
    ]
