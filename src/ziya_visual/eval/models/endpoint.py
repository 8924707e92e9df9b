"""Models behind an OpenAI-compatible endpoint, asked through the forge's client and ledger.

A killed evaluation repeats only requests that were in flight. The ledger names an image by its hash; the
pixels are put into the request as a PNG ``data:`` URI when it is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ziya_visual.core.pictures import data_uri
from ziya_visual.core.records import Example
from ziya_visual.eval.models.answer_cache import image_hash
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Ledger, Outcome

CONCURRENCY = 16


class Endpoint:
    """A model that is asked over HTTP.

    Attributes:
        failures: reason -> number of questions without an answer. Their answer is empty and counts as wrong.
    """

    def __init__(self, model: str, base_url: str, *, folder: Path, concurrency: int = CONCURRENCY) -> None:
        """Open the ledger in ``folder``; ``base_url`` includes ``/v1``, and nothing is sent yet."""
        self._sending = Sending(model, base_url, concurrency)
        self._ledger = _ImageLedger(folder)
        self.failures: Counter[str] = Counter()

    def close(self) -> None:
        """Release the ledger."""
        self._ledger.close()

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Return answers at temperature 0; a missing one is an empty text, counted in ``failures``."""
        assert images is not None, "an evaluation has its images by image_id"
        self._ledger.uris.clear()
        names: dict[str, str] = {}  # an image is encoded once for all its questions
        bodies = []
        for example in examples:
            image_id = str(example.image_id)
            if image_id not in names:
                names[image_id] = self._ledger.add_image(images[image_id])
            bodies.append(self._body(example, names[image_id], max_new_tokens))
        keys = self._ledger.add(bodies)
        ask_all(self._ledger, keys, self._sending)
        return [self._text(self._ledger.outcome(key)) for key in keys]

    def _body(self, example: Example, image_name: str, limit: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": turn.content} for turn in example.prompt_turns
        ]
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is not None:
            image = {"type": "image_url", "image_url": {"url": image_name}}
            first["content"] = [image, {"type": "text", "text": first["content"]}]
        return {"model": self._sending.model, "messages": messages, "max_tokens": limit, "temperature": 0}

    def _text(self, outcome: Outcome) -> str:
        text = outcome.answer or ""
        if not text.strip():
            reason = outcome.reason or f"empty reply ({outcome.finish_reason})"
            self.failures[reason.partition(":")[0]] += 1
        return text


class _ImageLedger(Ledger):
    """A ledger whose requests name images by hash; ``uris`` holds the images of the current batch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.uris: dict[str, str] = {}

    def add_image(self, image: Image) -> str:
        """Return the name by which requests refer to an image from now on."""
        name = f"sha256:{image_hash(image)}"
        if name not in self.uris:
            self.uris[name] = data_uri(image)
        return name

    def body(self, key: str) -> dict[str, Any]:
        """Return the body to send for ``key``, with its images."""
        body = super().body(key)
        for message in body["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image_url":
                    part["image_url"]["url"] = self.uris[part["image_url"]["url"]]
        return body
