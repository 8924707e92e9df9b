"""OpenAI's request bodies, validated, and their translation into requests of the scheduler.

Unsupported keys that change the answer are refused unless they have their default value; other keys that
OpenAI's client may send are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ziya_visual.core.errors import DataError
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.infer.decoder import Sampling
from ziya_visual.infer.scheduler import Request
from ziya_visual.infer.text_model import TextModel
from ziya_visual.serve.pictures import decode_image

DEFAULT_MAX_TOKENS = 256
MAX_CHOICES, MAX_INPUTS, MAX_STOPS, MAX_TOP = 16, 256, 16, 20
Text = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class ImageUrl(_Body):
    """The location of an image: a ``data:`` URI, or a URL on a host that the server may fetch from."""

    url: str


class TextPart(_Body):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Body):
    """An image part of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl | str

    @property
    def url(self) -> str:
        """Return the image's URL."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(_Body):
    """A message; ``developer`` is OpenAI's newer name of ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def urls(self) -> list[str]:
        """Return the URLs of the message's images, in order."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.url for part in parts if isinstance(part, ImagePart)]

    def turn(self) -> Turn:
        """Return the message as a turn: text parts become lines, and images follow the text before them."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Turn(role, self.content)
        text, positions = "", []
        for part in self.content:
            if isinstance(part, ImagePart):
                positions.append(len(text))
            else:
                text += f"\n{part.text}" if text else part.text
        return Turn(role, text, tuple(positions))


class StreamOptions(_Body):
    """Whether a stream ends with its token counts."""

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
    def _check_answerable(self) -> ChatRequest:
        last = self.messages[-1]
        if last.role != "user" or not last.turn().content.strip():
            raise ValueError("the last message must be a user's and not empty")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def urls(self) -> list[str]:
        """Return the URLs of all images, in the order in which they are shown."""
        return [url for message in self.messages for url in message.urls]

    def requests(
        self, model: TextModel, context: int, fetched: Mapping[str, bytes], put: Callable[[int, Any], None]
    ) -> list[Request]:
        """Return a scheduler request for each of the ``n`` answers.

        Prompt and answer must fit the model's ``context``, in tokens; ``fetched`` holds encoded images by
        their remote URL. ``put`` receives the index of a choice and what its :class:`Request` delivers.
        """
        images = [decode_image(url, fetched) for url in self.urls]
        turns = [message.turn() for message in self.messages]
        room = context - len(model.encode(turns, len(images)).ids)
        if room < 1:
            raise DataError(f"the dialogue has {context - room} tokens, the model's context {context}")
        limit = self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS
        return [
            Request(
                turns, images, min(limit, room), self._sampling(choice),
                put=lambda piece, choice=choice: put(choice, piece),  # type: ignore[misc]
                stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
                streamed=bool(self.stream),
            )
            for choice in range(self.n or 1)
        ]  # fmt: skip

    def _sampling(self, choice: int) -> Sampling:
        """Return the sampling of a choice, each with its own seed."""
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=self.top_p or 1.0,
            seed=None if self.seed is None else (self.seed + choice) % 2**63,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class EmbeddingRequest(_Body):
    """The body of ``/v1/embeddings``: texts, and images as message parts or ``data:`` URIs."""

    input: Text | Annotated[list[Text | ImagePart], Field(min_length=1, max_length=MAX_INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def inputs(self) -> list[str | ImagePart]:
        """Return the inputs as a list, with ``data:`` URIs as image parts."""
        inputs: list[str | ImagePart] = [self.input] if isinstance(self.input, str) else [*self.input]
        for index, item in enumerate(inputs):
            if isinstance(item, str) and item.startswith("data:image/"):
                inputs[index] = ImagePart(type="image_url", image_url=item)
        return inputs

    @property
    def urls(self) -> list[str]:
        """Return the URLs of the images."""
        return [item.url for item in self.inputs if isinstance(item, ImagePart)]

    def contents(self, fetched: Mapping[str, bytes]) -> list[str | Image.Image]:
        """Return texts and opened images; raise ``DataError`` if one cannot be read."""
        return [item if isinstance(item, str) else decode_image(item.url, fetched) for item in self.inputs]
