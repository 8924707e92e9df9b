"""Models behind an OpenAI-compatible endpoint: each question is a request of the forge's client and ledger.

A killed evaluation sends again what was in flight, and nothing else. The ledger names a picture by its hash;
its bytes go into the request when it is sent, as a ``data:`` URI of the very pixels (PNG).
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ziya_visual.core.files import hash_bytes
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.records import Example
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.ledger import Ledger, Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

CONCURRENCY = 16
_ENDPOINT = re.compile(r"(.+)@(https?://.+)")


def split_endpoint(checkpoint: str) -> tuple[str, str] | None:
    """``MODEL@URL`` as model and URL; None where it is a folder.

    >>> split_endpoint("gpt-4o@https://api.openai.com/v1")
    ('gpt-4o', 'https://api.openai.com/v1')
    """
    found = _ENDPOINT.fullmatch(checkpoint)
    return (found[1], found[2]) if found else None


class Endpoint:
    """A model that is asked over HTTP.

    Attributes:
        failures: reason -> questions without an answer: an empty text stands for each, which is wrong.
    """

    def __init__(
        self, model: str, base_url: str, *, folder: Path, concurrency: int = CONCURRENCY, **sending: Any
    ) -> None:
        """Open the ledger; nothing is sent yet.

        Args:
            model: its name there.
            base_url: with ``/v1``.
            folder: of the ledger.
            concurrency: requests in flight at once: what a kill can cost.
            sending: options of :class:`ziya_visual.forge.ask.client.Client`.

        Raises:
            ConfigError: another run holds the ledger.
        """
        self._model = model
        self._sending = {"base_url": base_url, "concurrency": concurrency, **sending}
        self._ledger = _Ledger(folder)
        self.failures: Counter[str] = Counter()

    def close(self) -> None:
        """Let the next run have the ledger."""
        self._ledger.close()

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image] | None = None,
    ) -> list[str]:
        """Answers at temperature 0; an empty text, counted under ``failures``, where there is none.

        Raises:
            EndpointError: it cannot be reached or refuses everything; what was answered is kept.
            ConfigError: an unusable URL, or no key for a remote one.
        """
        self._ledger.uris.clear()
        names: dict[str, str] = {}  # a picture is encoded once for all its questions
        bodies = []
        for example in examples:
            image_id = str(example.image_id)
            if image_id not in names:
                picture = open_picture(example) if images is None else images[image_id]
                names[image_id] = self._ledger.keep(picture)
            bodies.append(self._body(example, names[image_id], max_new_tokens))
        keys = self._ledger.add(bodies)
        ask_all(self._ledger, keys, **self._sending)
        return [self._text(self._ledger.outcome(key)) for key in keys]

    def _body(self, example: Example, picture: str, limit: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        shown = False
        for turn in example.prompt_turns:
            content: Any = turn.content
            if turn.role == "user" and not shown:
                shown = True
                image = {"type": "image_url", "image_url": {"url": picture}}
                content = [image, {"type": "text", "text": turn.content}]
            messages.append({"role": turn.role, "content": content})
        return {"model": self._model, "messages": messages, "max_tokens": limit, "temperature": 0}

    def _text(self, outcome: Outcome) -> str:
        text = outcome.answer or ""
        if not text.strip():
            reason = outcome.reason or f"empty reply ({outcome.finish_reason})"
            self.failures[reason.partition(":")[0]] += 1
        return text


class _Ledger(Ledger):
    """A ledger of requests about pictures, which it holds by hash; ``uris`` are those of this moment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.uris: dict[str, str] = {}

    def keep(self, picture: Image) -> str:
        """The name under which requests may show a picture from now on."""
        name = f"sha256:{hash_bytes(f'{picture.size}'.encode() + picture.tobytes())}"
        if name not in self.uris:
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            self.uris[name] = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return name

    def body(self, key: str) -> dict[str, Any]:
        """What is sent for ``key``, the pictures in it."""
        body = super().body(key)
        for message in body["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image_url":
                    part["image_url"]["url"] = self.uris[part["image_url"]["url"]]
        return body
