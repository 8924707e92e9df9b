"""A plain causal language model, with the few methods that server and evaluation need of any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.data.chat_format import ChatFormat, Said
from ziya_visual.infer.decode import Prompt, Sampling
from ziya_visual.infer.int8 import Dtype, quantize, read_as
from ziya_visual.infer.prefixes import Prefix
from ziya_visual.model.attention import INFERENCE
from ziya_visual.model.packed import causal_lm

BLIND = "this model reads text only; serve a vision-language checkpoint to ask about pictures"


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

    def has_prefix(self, messages: Sequence[Said], num_pictures: int) -> bool:
        """Whether the dialogue begins with what all dialogues about its picture begin with."""
        return False

    def prompt(
        self,
        messages: Sequence[Said],
        max_new_tokens: int,
        sampling: Sampling,
        prefix: Prefix | None = None,
        pictures: Sequence[Image.Image] = (),
    ) -> Prompt:
        """The whole dialogue as token ids; there is never a ``prefix`` nor a picture."""
        assert prefix is None, "a text model has no picture"
        if pictures:
            raise DataError(BLIND)
        ids = self.format.encode(messages, add_generation_prompt=True).ids
        return Prompt(ids, max_new_tokens, sampling=sampling)

    def prefixes(self, pictures: Sequence[Image.Image], dialogues: Sequence[Sequence[Said]]) -> list[Prefix]:
        """Refuses pictures: this model has no eyes."""
        if pictures:
            raise DataError(BLIND)
        return []

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of new tokens."""
        return str(self.format.tokenizer.decode(tokens, skip_special_tokens=True))
