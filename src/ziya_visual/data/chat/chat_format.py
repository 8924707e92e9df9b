r"""The chat format: one function turns a dialogue into token ids, for training and inference alike.

A format is the Jinja chat template of the checkpoint's tokenizer: Ziya's own for Ziya, the LLM's for others.
Image tokens come before everything (``first``, as in stock ``Blip2Processor``) or where their turn shows the
image (``inline``). Dialogues about one image begin with a shared prefix; the rest of each is a branch::

    first    <image>... <s> | <human>:question\n<bot>:answer</s>\n
    inline   <s><human>:<image>... | question\n<bot>:answer</s>\n

A checkpoint carries this file as remote code, see :mod:`processing_ziya_visual`.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any

from .chat_template import ChatTemplate, CheckpointError, DataError, Turn, TurnLike, ziya_chat_template

__all__ = ["BOT", "HUMAN", "IMAGE", "ChatFormat", "Encoded", "Turn", "TurnLike", "ziya_chat_template"]

HUMAN, BOT, IMAGE = "<human>:", "<bot>:", "<image>"
POSITIONS = ("first", "inline")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, whether each is trained on (assistant text and its end token), and the images' spans."""

    ids: list[int]
    supervised: list[bool]
    image_spans: tuple[tuple[int, int], ...] = ()


PlacedTurns = list[tuple[str, str, tuple[int, ...]]]  # role, content, positions of its images


class ChatFormat:
    """The chat format of one tokenizer."""

    def __init__(self, tokenizer: Any, *, image_position: str = "first") -> None:
        """Take a fast tokenizer of transformers with ``<image>`` and a chat template.

        The template must end an assistant's turn with a special token and drop nothing of a turn.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                "the tokenizer has no tokenizer.json form; save it with a fast tokenizer first"
            )
        image_id = tokenizer.convert_tokens_to_ids(IMAGE)
        if image_id is None or image_id == tokenizer.unk_token_id:
            raise CheckpointError(f"the tokenizer needs an {IMAGE} token; `init` adds it")
        if image_position not in POSITIONS:
            raise CheckpointError(f"image_position is {image_position!r}, expected {' or '.join(POSITIONS)}")
        self.tokenizer, self.image_position = tokenizer, image_position
        self.image_id: int = image_id
        self._template = ChatTemplate(tokenizer)
        self._skeletons = lru_cache(256)(self._skeleton)
        pieces = self._template.pieces(("user", "assistant"), False)
        written = "".join(pieces)
        self._control = {
            number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in written and not token.content.isspace())
        }
        opening, closing = tokenizer([pieces[0], pieces[-1]], add_special_tokens=False)["input_ids"]
        eos_id = next((i for i in closing if i in self._control), None)
        if eos_id is None or pieces[-1].partition(tokenizer.convert_ids_to_tokens(eos_id))[0].strip():
            raise CheckpointError(
                f"the chat template writes {pieces[-1]!r:.60} after an answer, expected a special token"
            )
        self.eos_id: int = eos_id  # the first special token behind an assistant's turn
        self._end: str = tokenizer.convert_ids_to_tokens(self.eos_id)
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.bos_ids: list[int] = opening[:1] if opening[:1] == [tokenizer.bos_token_id] else []

    @cached_property
    def _whole(self) -> Any:
        """Return the tokenizer for the template's text, made on demand since copying vocabularies is slow."""
        return _backend(self.tokenizer.backend_tokenizer, as_text=False)

    @cached_property
    def _plain(self) -> Any:
        """Return the tokenizer for the turns' own text."""
        return _backend(self.tokenizer.backend_tokenizer, as_text=True)

    def __deepcopy__(self, memo: Any) -> ChatFormat:
        """Return itself, which never changes: processors are copied whenever they are printed or saved."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the constructor and its arguments, to pickle for data loading in other processes."""
        return partial(ChatFormat, image_position=self.image_position), (self.tokenizer,)

    def text_ids(self, text: str) -> list[int]:
        """Return the token ids of plain text; special tokens spelt in it stay text."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._control.isdisjoint(ids):
            return ids
        if len(text) == 1:
            return []  # only a control token could write this character
        # A vocabulary may also hold a control token as a word: split off its first character.
        control = [start for (start, _), i in zip(encoding.offsets, ids, strict=True) if i in self._control]
        edges = sorted({0, *control, *(start + 1 for start in control), len(text)})
        return [i for a, b in pairwise(edges) for i in self.text_ids(text[a:b])]

    def prefix_ids(self, num_image_tokens: int) -> list[int]:
        """Return what all branches of an image share; without an image only the beginning-of-text token."""
        images = [self.image_id] * num_image_tokens
        if self.image_position == "first" or not images:
            return images + self.bos_ids
        return self._ids(self._template.pieces(("user",), False)[0]) + images

    def branch(
        self, messages: Sequence[TurnLike], *, num_image_tokens: int = 0, add_generation_prompt: bool = False
    ) -> Encoded:
        """Encode what follows ``prefix_ids(num_image_tokens)`` in a dialogue; see :meth:`encode`."""
        prefix = self.prefix_ids(num_image_tokens)
        encoded = self.encode(
            messages, num_image_tokens=num_image_tokens, add_generation_prompt=add_generation_prompt
        )
        if encoded.ids[: len(prefix)] != prefix:
            raise DataError("with image_position inline, a dialogue must begin with the image's user turn")
        return Encoded(encoded.ids[len(prefix) :], encoded.supervised[len(prefix) :])

    def has_prefix(self, messages: Sequence[TurnLike], num_images: int) -> bool:
        """Tell whether the dialogue is about one image and begins with its prefix."""
        if num_images != 1 or self.image_position == "first":
            return num_images == 1
        role, _, places = self._place(messages, 1)[0]
        return role == "user" and places == (0,)

    def encode(
        self,
        messages: Sequence[TurnLike],
        *,
        num_image_tokens: int = 0,
        num_images: int = 1,
        add_generation_prompt: bool = False,
    ) -> Encoded:
        """Encode a whole dialogue as token ids.

        Args:
            messages: the turns, oldest first. Images that no turn shows belong to the first user turn.
            num_image_tokens: Q, the tokens of each image; 0 without images.
            num_images: the number of images, if Q is not 0.
            add_generation_prompt: end where the assistant begins to speak.

        Raises:
            DataError: there is no turn, the turns show another number of images, or the template refuses the
                turns or rewrites what one says.
        """
        images = num_images if num_image_tokens else 0
        ids, supervised = self._encode(self._place(messages, images), add_generation_prompt)
        if self.image_position == "first":
            ids, supervised = [self.image_id] * images + ids, [False] * images + supervised
        return self._expand(ids, supervised, num_image_tokens) if images else Encoded(ids, supervised)

    def render(
        self, messages: Sequence[TurnLike], *, num_images: int = 0, add_generation_prompt: bool = False
    ) -> str:
        """Return the dialogue as text, one ``<image>`` for each image."""
        text = self._write(self._place(messages, num_images), add_generation_prompt)[1]
        return IMAGE * num_images + text if self.image_position == "first" else text

    def _place(self, messages: Sequence[TurnLike], images: int) -> PlacedTurns:
        """Return the turns with the positions of inline images."""
        if not messages:
            raise DataError("a dialogue needs at least one turn")
        turns = [(turn.role, turn.content, getattr(turn, "images", ())) for turn in messages]
        shown = sum(len(places) for _, _, places in turns)
        if shown not in (0, images):
            raise DataError(f"the dialogue shows {shown} images, but there are {images}")
        if self.image_position == "first":
            return [(role, content, ()) for role, content, _ in turns]
        if images and not shown:
            first = next((number for number, turn in enumerate(turns) if turn[0] == "user"), None)
            if first is None:
                raise DataError("an image needs a user turn to belong to")
            turns[first] = (*turns[first][:2], (0,) * images)
        return turns

    def _write(
        self, turns: PlacedTurns, generate: bool
    ) -> tuple[tuple[str, ...], str, list[tuple[int, int]]]:
        roles = tuple(role for role, _, _ in turns)
        return self._template.write(
            roles, [_with_images(text, places) for _, text, places in turns], generate
        )

    def _encode(self, turns: PlacedTurns, generate: bool) -> tuple[list[int], list[bool]]:
        """Return ids with one placeholder per image, and which of them are trained on.

        The text is tokenized as a whole, as in stock ``apply_chat_template``. If that yields other control
        tokens than the template's own, some turn spells one, and each turn is tokenized as plain text.
        """
        pieces, text, spans = self._write(turns, generate)
        control, tails = self._skeletons(pieces, tuple((role, len(places)) for role, _, places in turns))
        encoding = self._whole.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if [i for i in ids if i in self._control] != control:
            return self._piecewise(turns, pieces, tails, [text[start:end] for start, end in spans])
        supervised = [False] * len(ids)
        starts, ends = zip(*encoding.offsets, strict=True)
        for (start, end), tail in zip(spans, tails, strict=True):
            if tail is not None:
                first, last = bisect_right(ends, start), bisect_left(starts, end + tail)
                supervised[first:last] = [True] * (last - first)
        return ids, supervised

    def _skeleton(
        self, pieces: tuple[str, ...], shape: tuple[tuple[str, int], ...]
    ) -> tuple[list[int], list[int | None]]:
        """Return the control tokens of the template's pieces around turns of these roles and image counts.

        The second list has for each assistant turn how many characters of the piece after it, up to the end
        token, are trained on; None for other roles.
        """
        text = pieces[0] + "".join(
            IMAGE * images + "a" + piece for (_, images), piece in zip(shape, pieces[1:], strict=True)
        )
        control = [i for i in self._ids(text) if i in self._control]
        tails: list[int | None] = []
        for (role, _), piece in zip(shape, pieces[1:], strict=True):
            before, end, _ = piece.partition(self._end)
            ended = len(before + end) if end and not before.strip() else 0
            tails.append(ended if role == "assistant" else None)
        return control, tails

    def _piecewise(
        self, turns: PlacedTurns, pieces: Sequence[str], tails: Sequence[int | None], texts: Sequence[str]
    ) -> tuple[list[int], list[bool]]:
        """Encode turns, ``texts`` as the template wrote them, as plain text between its pieces."""
        ids = self._ids(pieces[0])
        supervised = [False] * len(ids)
        for (_, content, places), text, piece, tail in zip(turns, texts, pieces[1:], tails, strict=True):
            cut = _with_images(content, places).find(text)
            content_ids: list[int] = []
            at = 0
            for number, place in enumerate(places):
                image = place + number * len(IMAGE) - cut
                content_ids += [*self.text_ids(text[at:image]), self.image_id]
                at = image + len(IMAGE)
            content_ids += self.text_ids(text[at:])
            after = self._ids(piece)
            trained = after.index(self.eos_id) + 1 if tail else 0
            ids += content_ids + after
            supervised += [tail is not None] * len(content_ids)
            supervised += [True] * trained + [False] * (len(after) - trained)
        return ids, supervised

    def _expand(self, ids: list[int], supervised: list[bool], num_image_tokens: int) -> Encoded:
        """Expand each placeholder to the tokens of its image."""
        spans = []
        for number, at in enumerate([at for at, i in enumerate(ids) if i == self.image_id]):
            start = at + number * (num_image_tokens - 1)
            spans.append((start, start + num_image_tokens))
            ids[start : start + 1] = [self.image_id] * num_image_tokens
            supervised[start : start + 1] = [False] * num_image_tokens
        return Encoded(ids, supervised, tuple(spans))

    def _ids(self, text: str) -> list[int]:
        """Return the token ids of the template's own text."""
        return list(self._whole.encode(text, add_special_tokens=False).ids)


def _with_images(text: str, places: Sequence[int]) -> str:
    """Insert ``<image>`` into a turn's text at its images' positions."""
    for place in reversed(places):
        text = text[:place] + IMAGE + text[place:]
    return text


def _backend(backend: Any, *, as_text: bool) -> Any:
    """Copy a tokenizer; with ``as_text``, special tokens that a text spells stay text."""
    duplicate = copy.deepcopy(backend)
    duplicate.encode_special_tokens = as_text
    duplicate.no_truncation()
    duplicate.no_padding()
    return duplicate
