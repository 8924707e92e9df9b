"""What callers ask for: OpenAI's request bodies, checked, and what becomes of them.

Keys that change the answer and that we do not have are refused unless they are at their default; others that
OpenAI's client may send are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ziya_visual.core.errors import DataError
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.infer.decoder import Sampling
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.scheduler import Request
from ziya_visual.infer.text_model import BLIND, TextModel
from ziya_visual.serve.pictures import picture

DEFAULT_MAX_TOKENS = 256
MAX_CHOICES, MAX_INPUTS, MAX_STOPS, MAX_TOP = 16, 256, 16, 20
Text = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class ImageUrl(_Body):
    """Where a picture is: a ``data:`` URI, or an address on a host that the server fetches from."""

    url: str


class TextPart(_Body):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Body):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl | str

    @property
    def url(self) -> str:
        """The picture's address in either form."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(_Body):
    """A turn; ``developer`` is OpenAI's later name of ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def urls(self) -> list[str]:
        """Of its pictures, in their order."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.url for part in parts if isinstance(part, ImagePart)]

    def turn(self) -> Turn:
        """Our turn: texts are lines, a picture stands behind the texts before it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Turn(role, self.content)
        text, places = "", []
        for part in self.content:
            if isinstance(part, ImagePart):
                places.append(len(text))
            else:
                text += f"\n{part.text}" if text else part.text
        return Turn(role, text, tuple(places))


class StreamOptions(_Body):
    """Whether a stream ends with what it cost."""

    include_usage: bool | None = None


class ChatRequest(_Body):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _answerable(self) -> ChatRequest:
        last = self.messages[-1]
        if last.role != "user" or not last.turn().content.strip():
            raise ValueError("the last message must be a user's and not empty")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def urls(self) -> list[str]:
        """Of all pictures, in the order in which they are shown."""
        return [url for message in self.messages for url in message.urls]

    def jobs(
        self, model: TextModel, context: int, fetched: Mapping[str, bytes], put: Callable[[int, Any], None]
    ) -> list[Request]:
        """One for each of the ``n`` answers.

        Args:
            model: that will answer.
            context: of the model, in tokens; prompt and answer fit in.
            fetched: encoded pictures by their remote address.
            put: gets a choice's number and what :class:`Request` hands out.

        Raises:
            DataError: a picture cannot be read, the model has no eyes, or the dialogue is too long.
        """
        pictures = [picture(url, fetched) for url in self.urls]
        turns = [message.turn() for message in self.messages]
        room = context - _length(model, turns, pictures)
        if room < 1:
            raise DataError(f"the dialogue has {context - room} tokens, the model's context {context}")
        limit = self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS
        return [
            Request(
                turns, pictures, min(limit, room), self._sampling(number),
                put=lambda piece, number=number: put(number, piece),  # type: ignore[misc]
                stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
                streamed=bool(self.stream),
            )
            for number in range(self.n or 1)
        ]  # fmt: skip

    def _sampling(self, number: int) -> Sampling:
        """Of a choice; each has a seed of its own."""
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=self.top_p or 1.0,
            seed=None if self.seed is None else (self.seed + number) % 2**63,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class EmbeddingRequest(_Body):
    """The body of ``/v1/embeddings``: texts, and pictures as parts of a message or as ``data:`` URIs."""

    input: Text | Annotated[list[Text | ImagePart], Field(min_length=1, max_length=MAX_INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def inputs(self) -> list[str | ImagePart]:
        """A list of them in every case."""
        found: list[str | ImagePart] = [self.input] if isinstance(self.input, str) else [*self.input]
        return [
            ImagePart(type="image_url", image_url=one)
            if isinstance(one, str) and one.startswith("data:image/")
            else one
            for one in found
        ]

    @property
    def urls(self) -> list[str]:
        """Of the pictures."""
        return [one.url for one in self.inputs if isinstance(one, ImagePart)]

    def contents(self, fetched: Mapping[str, bytes]) -> list[str | Image.Image]:
        """Texts and opened pictures; ``DataError`` where one cannot be read."""
        return [one if isinstance(one, str) else picture(one.url, fetched) for one in self.inputs]


def _length(model: TextModel, turns: list[Turn], pictures: list[Image.Image]) -> int:
    """Tokens of a prompt."""
    queries = model.processor.num_query_tokens if isinstance(model, ZiyaVisual) else 0
    if pictures and not queries:
        raise DataError(BLIND)
    encoded = model.format.encode(
        turns,
        num_image_tokens=queries if pictures else 0,
        num_images=len(pictures),
        add_generation_prompt=True,
    )
    return len(encoded.ids)
