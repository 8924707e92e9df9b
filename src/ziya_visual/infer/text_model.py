"""A plain causal language model with the methods that the server and the evaluation need of any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ziya_visual.core.errors import CheckpointError, DataError, one_line
from ziya_visual.data.chat.chat_format import ChatFormat, Encoded, TurnLike
from ziya_visual.infer.decoder import GREEDY, Prompt, Sampling
from ziya_visual.infer.quantized import Dtype, load_dtype, quantize
from ziya_visual.model.packed.attention import INFERENCE
from ziya_visual.model.packed.forward import causal_lm

TEXT_ONLY = "this model reads text only; serve a vision-language checkpoint to ask about pictures"


@dataclass
class Dialogue:
    """A dialogue to answer, about images or about none."""

    messages: Sequence[TurnLike]
    images: Sequence[Image.Image]
    max_new_tokens: int
    sampling: Sampling = GREEDY


class TextModel:
    """A causal language model in our chat format."""

    def __init__(self, language_model: Any, chat: ChatFormat) -> None:
        self.language_model = causal_lm(language_model).eval()
        self.format = chat

    @staticmethod
    def from_pretrained(folder: Path, *, dtype: Dtype = "auto") -> TextModel:
        """Open a folder of stock transformers; ``dtype`` as in ``ZiyaVisual.from_pretrained``."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=load_dtype(dtype), attn_implementation=INFERENCE
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: cannot be read ({one_line(error, 160)})") from error
        if dtype == "int8":
            quantize(model)
        return TextModel(model, ChatFormat(tokenizer))

    def prompts(self, dialogues: Sequence[Dialogue]) -> list[Prompt | DataError]:
        """Encode dialogues as token ids; return the reason in place of one that cannot be answered."""
        prompts: list[Prompt | DataError] = []
        for dialogue in dialogues:
            try:
                ids = self.encode(dialogue.messages, len(dialogue.images)).ids
                prompts.append(Prompt(ids, dialogue.max_new_tokens, sampling=dialogue.sampling))
            except DataError as error:
                prompts.append(error)
        return prompts

    def encode(self, messages: Sequence[TurnLike], num_images: int) -> Encoded:
        """Encode a whole dialogue, up to the answer; raise ``DataError`` if it is about images."""
        if num_images:
            raise DataError(TEXT_ONLY)
        return self.format.encode(messages, add_generation_prompt=True)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of new tokens."""
        return str(self.format.tokenizer.decode(tokens, skip_special_tokens=True))
