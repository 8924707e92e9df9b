r"""The chat format: the one function that turns a dialogue into token ids, for training and inference alike.

Ziya's layout: ``<image>`` tokens, then ``<s>``, then turns ``<human>:question\n`` and
``<bot>:answer</s>\n``. The image stands before ``<s>``, where stock ``Blip2Processor`` puts it. What comes
before the first turn is the shared prefix of all dialogues about one image; the turns are a branch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.records import Message

HUMAN, BOT, IMAGE = "<human>:", "<bot>:", "<image>"

# The same layout for stock ``apply_chat_template``; a test holds the two together.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<bot>:{{ message['content'] }}{{ eos_token }}\n"
    "{% else %}<human>:{{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot>:{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and, for each, whether it is trained on (assistant text and its end token)."""

    ids: list[int]
    supervised: list[bool]


class ChatFormat:
    """The chat format over one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast tokenizer of transformers.

        Raises:
            CheckpointError: the tokenizer has no ``<image>`` token, no end token, or is not a fast one.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                "the tokenizer has no tokenizer.json form; save it with a fast tokenizer first"
            )
        self.tokenizer = tokenizer
        self._plain = copy.deepcopy(backend)
        self._plain.encode_special_tokens = (
            True  # what a user types is text, also where it spells a special token
        )
        self._plain.no_truncation()
        self._plain.no_padding()
        image_id = tokenizer.convert_tokens_to_ids(IMAGE)
        if image_id is None or image_id == tokenizer.unk_token_id or tokenizer.eos_token_id is None:
            raise CheckpointError(f"the tokenizer needs an {IMAGE} token and an end token; `init` adds them")
        self.image_id: int = image_id
        self.eos_id: int = tokenizer.eos_token_id
        pad_id = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad_id is None else pad_id
        self._bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        # A role's opening may be a special token of this tokenizer, or ordinary text.
        self._human: list[int] = tokenizer(HUMAN, add_special_tokens=False)["input_ids"]
        self._bot: list[int] = tokenizer(BOT, add_special_tokens=False)["input_ids"]
        self._newline = self.text_ids("\n")

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens spelt in it stay text."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def prefix_ids(self, num_image_tokens: int) -> list[int]:
        """What every branch of an image shares: its placeholders and the beginning of text."""
        return [self.image_id] * num_image_tokens + self._bos

    def branch(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Encoded:
        """The turns alone. With ``add_generation_prompt`` it ends where the assistant begins to speak."""
        ids: list[int] = []
        supervised: list[bool] = []

        def add(new: list[int], learn: bool = False) -> None:
            ids.extend(new)
            supervised.extend([learn] * len(new))

        for message in messages:
            if message.role == "assistant":
                add(self._bot)
                add([*self.text_ids(message.content), self.eos_id], learn=True)
            else:
                add(self._human)
                add(self.text_ids(message.content))
            add(self._newline)
        if add_generation_prompt:
            add(self._bot)
        return Encoded(ids, supervised)

    def encode(
        self, messages: Sequence[Message], *, num_image_tokens: int = 0, add_generation_prompt: bool = False
    ) -> Encoded:
        """A whole sequence: prefix and turns."""
        prefix = self.prefix_ids(num_image_tokens)
        branch = self.branch(messages, add_generation_prompt=add_generation_prompt)
        return Encoded(prefix + branch.ids, [False] * len(prefix) + branch.supervised)
