"""A plain causal language model, with the few methods that server and evaluation need of any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.data.chat.chat_format import ChatFormat, TurnLike
from ziya_visual.infer.decoder import GREEDY, Prompt, Sampling
from ziya_visual.infer.quantized import Dtype, quantize, read_as
from ziya_visual.model.packed.attention import INFERENCE
from ziya_visual.model.packed.forward import causal_lm

BLIND = "this model reads text only; serve a vision-language checkpoint to ask about pictures"


@dataclass
class Asked:
    """A dialogue about pictures, or about none, that is to be answered."""

    messages: Sequence[TurnLike]
    pictures: Sequence[Image.Image]
    max_new_tokens: int
    sampling: Sampling = GREEDY


class TextModel:
    """A causal language model in our chat format."""

    def __init__(self, language_model: Any, chat: ChatFormat) -> None:
        self.language_model = causal_lm(language_model).eval()
        self.format = chat

    @staticmethod
    def from_pretrained(folder: Path, *, dtype: Dtype = "auto") -> TextModel:
        """Open a folder of stock transformers; ``dtype`` as of ``ZiyaVisual``.

        Raises:
            CheckpointError: it cannot be read, or its tokenizer does not fit our chat format.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=read_as(dtype), attn_implementation=INFERENCE
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: cannot be read ({' '.join(str(error).split())[:160]})"
            ) from error
        if dtype == "int8":
            quantize(model)
        return TextModel(model, ChatFormat(tokenizer))

    def prompts(self, asked: Sequence[Asked]) -> list[Prompt | DataError]:
        """Dialogues as token ids; in the place of one that cannot be asked stands the reason."""
        return [self._prompt(one) for one in asked]

    def _prompt(self, asked: Asked) -> Prompt | DataError:
        if asked.pictures:
            return DataError(BLIND)
        try:
            ids = self.format.encode(asked.messages, add_generation_prompt=True).ids
        except DataError as error:
            return error
        return Prompt(ids, asked.max_new_tokens, sampling=asked.sampling)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of new tokens."""
        return str(self.format.tokenizer.decode(tokens, skip_special_tokens=True))
