"""A plain causal language model with the methods that the server and the evaluation need of any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ziya_visual.core.errors import CheckpointError, DataError, one_line
from ziya_visual.data.chat.chat_format import ChatFormat, TurnLike
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
        """Open a folder of stock transformers; ``dtype`` as in ``ZiyaVisual.from_pretrained``.

        Raises:
            CheckpointError: the folder cannot be read, or its tokenizer does not fit our chat format.
        """
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
        return [self._prompt(dialogue) for dialogue in dialogues]

    def _prompt(self, dialogue: Dialogue) -> Prompt | DataError:
        if dialogue.images:
            return DataError(TEXT_ONLY)
        try:
            ids = self.format.encode(dialogue.messages, add_generation_prompt=True).ids
        except DataError as error:
            return error
        return Prompt(ids, dialogue.max_new_tokens, sampling=dialogue.sampling)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of new tokens."""
        return str(self.format.tokenizer.decode(tokens, skip_special_tokens=True))
