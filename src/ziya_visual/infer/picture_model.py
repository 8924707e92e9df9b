"""Dialogues about pictures as prompts: each picture is encoded once, and what follows from it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ziya_visual.core.errors import DataError
from ziya_visual.data.chat.chat_format import TurnLike
from ziya_visual.data.text_batch import text_batch
from ziya_visual.infer.decoder import Prompt, Sampling, compute_prefixes
from ziya_visual.infer.prefix_cache import ByteCache, Prefix, Shown, kept, named
from ziya_visual.infer.text_model import Asked, TextModel
from ziya_visual.model.network import VisualModel, ZiyaInstructModel
from ziya_visual.model.processor import ZiyaProcessor

KEPT_BYTES = 1_000_000_000  # of pictures' tokens, and as much of their keys and values
AT_ONCE = 128


class PictureModel(TextModel):
    """A vision-language network with what it knows of the pictures that it was shown."""

    def __init__(self, model: VisualModel, processor: ZiyaProcessor) -> None:
        super().__init__(model.language_model, processor.chat)
        self.model = model.eval()
        self.processor = processor
        self.encoded = 0  # pictures so far
        self.tokens: ByteCache[Tensor] = ByteCache(KEPT_BYTES)
        self.kept: ByteCache[Prefix] = ByteCache(KEPT_BYTES)

    def has_prefix(self, messages: Sequence[TurnLike], num_pictures: int) -> bool:
        """See :meth:`ChatFormat.has_prefix`."""
        return self.format.has_prefix(messages, num_pictures)

    def prompts(self, asked: Sequence[Asked]) -> list[Prompt | DataError]:
        """Dialogues as token ids: behind the prefix of a picture that is known, else whole.

        New pictures are encoded together. A new prefix is computed with its first question, in one pass, and
        kept. In the place of a dialogue that cannot be asked stands the reason.
        """
        shown = [named(one.pictures, [self._instruction(one.messages)] * len(one.pictures)) for one in asked]
        new = [one for some in shown if not self._known(some) for one in some]
        seen = dict(zip([name for name, *_ in new], self._tokens(new), strict=True))
        found: list[Prompt | DataError] = []
        for one, some in zip(asked, shown, strict=True):
            try:
                found.append(self._ask(one, some, seen))
            except DataError as error:
                found.append(error)
        return found

    def _known(self, shown: Sequence[Shown]) -> Prefix | None:
        """What is kept of the one picture of a dialogue."""
        return self.kept.get(shown[0][0]) if len(shown) == 1 else None

    def _ask(self, asked: Asked, shown: Sequence[Shown], seen: Mapping[str, Tensor]) -> Prompt:
        sharing = self.has_prefix(asked.messages, len(shown))
        if sharing and (known := self._known(shown)):
            return self._branch(asked.messages, asked.max_new_tokens, asked.sampling, known)
        queries = self.processor.num_query_tokens
        whole = self.format.encode(
            asked.messages,
            num_image_tokens=queries if shown else 0,
            num_images=len(shown),
            add_generation_prompt=True,
        )
        tokens = [seen[one[0]] if one[0] in seen else self._tokens([one])[0] for one in shown]
        starts = [start for start, _ in whole.image_spans]
        prompt = Prompt(
            whole.ids, asked.max_new_tokens, None, asked.sampling, tuple(zip(starts, tokens, strict=True))
        )
        if not sharing:
            return prompt
        name = shown[0][0]
        return replace(
            prompt,
            shared=len(self.format.prefix_ids(queries)),
            keep=lambda prefix: self.kept.put(name, prefix, prefix.nbytes),
        )

    def _branch(
        self, messages: Sequence[TurnLike], max_new_tokens: int, sampling: Sampling, prefix: Prefix
    ) -> Prompt:
        """What follows the prefix."""
        queries = self.processor.num_query_tokens
        branch = self.format.branch(messages, num_image_tokens=queries, add_generation_prompt=True)
        return Prompt(branch.ids, max_new_tokens, prefix, sampling)

    @torch.inference_mode()
    def prefixes(
        self, pictures: Sequence[Image.Image], dialogues: Sequence[Sequence[TurnLike]]
    ) -> list[Prefix]:
        """What dialogues about each picture begin with; what was asked about before is kept.

        An instruction-aware Q-Former reads the last question of the picture's dialogue, and each question
        gives another prefix.
        """
        shown = named(pictures, [self._instruction(messages) for messages in dialogues])
        ids = torch.tensor(self.format.prefix_ids(self.processor.num_query_tokens))

        def make(some: Sequence[Shown]) -> list[Prefix]:
            embeds = self.language_model.get_input_embeddings()(ids).repeat(len(some), 1, 1)
            embeds[:, ids == self.format.image_id] = torch.stack(self._tokens(some)).to(embeds.dtype)
            return compute_prefixes(self.language_model, embeds)

        return kept(self.kept, shown, make, at_once=AT_ONCE)

    @torch.inference_mode()
    def _tokens(self, shown: Sequence[Shown]) -> list[Tensor]:
        """Each picture's tokens, float[Q, D]; one seen before is not encoded again for the same question."""

        def make(some: Sequence[Shown]) -> list[Tensor]:
            self.encoded += len(some)
            _, pictures, asked = zip(*some, strict=True)
            encoded = self.model.image_prefix(self._queries(pictures, asked))
            return [tokens.clone() for tokens in encoded]  # not views that would keep all of them

        return kept(self.tokens, shown, make, at_once=AT_ONCE)

    def _instruction(self, messages: Sequence[TurnLike]) -> str:
        """What the Q-Former reads with the picture: the last question, or nothing, as in BLIP-2."""
        if not isinstance(self.model, ZiyaInstructModel):
            return ""
        return next((turn.content for turn in reversed(messages) if turn.role == "user"), "")

    def look(self, picture: Image.Image, messages: Sequence[TurnLike]) -> Tensor:
        """What the Q-Former reads out of a picture, float[1, Q, Dq], computed anew."""
        return self._queries([picture], [self._instruction(messages)])

    def _queries(self, pictures: Sequence[Image.Image], instructions: Sequence[str] = ()) -> Tensor:
        embeds = self.model.encode_images(self.processor.pixels(pictures))
        if isinstance(self.model, ZiyaInstructModel):
            read = self._qformer_ids(instructions, self.model.qformer_tokenizer)
            return self.model.query_images(embeds, read)
        return self.model.query_images(embeds)

    def _qformer_ids(self, texts: Sequence[str], own: Any | None) -> tuple[Tensor, Tensor]:
        limit = self.model.config.qformer_config.max_position_embeddings
        ids, mask = text_batch(texts, limit=limit, chat=self.format, own=own)
        return torch.from_numpy(ids), torch.from_numpy(mask)
