"""The limits on sending: how many requests at once, how many a minute, and how many dollars."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import read_text
from ziya_visual.forge.ask.ledger import Outcome

_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
TOKENS_PER_DENSE_CHARACTER = 0.8  # current tokenizers on Chinese, rounded up
CHARACTERS_PER_TOKEN = 4.0  # English
Price = tuple[float, float]  # dollars per million tokens of the prompt and of the completion


class Gate:
    """A limit on requests in flight: halved when an endpoint is overloaded, raised by one per clean round."""

    def __init__(self, highest: int) -> None:
        """Start at ``highest``."""
        self.limit = float(highest)
        self._highest = highest
        self._inside = 0
        self._changed = asyncio.Condition()
        self._halved_at = 0.0

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside < int(self.limit))
            self._inside += 1

    async def __aexit__(self, *error: object) -> None:
        async with self._changed:
            self._inside -= 1
            if error[0] is None:
                self.limit = min(self._highest, self.limit + 1 / self.limit)
            self._changed.notify(max(0, int(self.limit) - self._inside))

    def halve(self) -> None:
        """Halve the limit, at most once a second: refusals of one instant are one sign of overload."""
        now = time.monotonic()
        if now - self._halved_at >= 1.0:
            self._halved_at = now
            self.limit = max(1.0, self.limit / 2)


class Pace:
    """A rate limit: at most ``per_minute`` units, each caller waiting until earlier grants have passed."""

    def __init__(self, per_minute: float) -> None:
        """Start with nothing granted."""
        self._seconds_each = 60.0 / per_minute
        self._next = 0.0

    async def take(self, amount: float) -> None:
        """Wait for the turn of ``amount`` units."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * self._seconds_each
        if start > now:
            await asyncio.sleep(start - now)


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens in a text, within a third for English and Chinese."""
    dense = len(_DENSE.findall(text))
    return round(dense * TOKENS_PER_DENSE_CHARACTER + (len(text) - dense) / CHARACTERS_PER_TOKEN) or 1


def read_price(path: Path, model: str) -> Price:
    """Read a model's price from a YAML price table; ``ConfigError`` if it is none, or lacks the model."""
    try:
        rows = yaml.safe_load(read_text(path)).items()
        prices = {str(name): (float(row["prompt"]), float(row["completion"])) for name, row in rows}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        expected = "expected 'model: {prompt: 0.15, completion: 0.6}' in dollars per million tokens"
        raise ConfigError(f"{path}: not a price table; {expected}") from error
    if model not in prices:
        raise ConfigError(f"{path}: no price for model {model!r}{nearest(model, prices)}")
    return prices[model]


def dollars(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """Return what tokens cost in dollars."""
    return (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6


class Budget:
    """A hard cap in dollars: a request is sent only if the most it can cost is still available.

    That most is one token per byte of the prompt plus ``max_tokens`` of the reply, which holds for every
    tokenizer. A reply without token counts, and a request that was given up, are charged that much.
    """

    def __init__(self, limit_usd: float, price: Price, *, spent_usd: float) -> None:
        """Start from ``spent_usd``, which earlier runs of the ledger paid."""
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.exhausted = False
        self._price = price
        self._held: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def reserve(self, key: str, body: Mapping[str, Any]) -> bool:
        """Return whether a request may be sent, after waiting for money that others still hold."""
        while not self.exhausted and not self.hold(key, body):
            if not self._held:
                self.exhausted = True
            else:
                self._changed.clear()
                await self._changed.wait()
        return not self.exhausted

    def hold(self, key: str, body: Mapping[str, Any]) -> bool:
        """Set aside the most that a request can cost, if that much is left."""
        size = len(json.dumps(body["messages"], ensure_ascii=False).encode())
        most = dollars(self._price, size, int(body.get("max_tokens", 0)))
        if self.spent_usd + sum(self._held.values()) + most > self.limit_usd:
            return False
        self._held[key] = most
        return True

    def settle(self, outcome: Outcome) -> None:
        """Charge what a request cost and release what was held for it."""
        most = self._held.pop(outcome.key, 0.0)
        cost = dollars(self._price, outcome.prompt_tokens, outcome.completion_tokens)
        refused = outcome.state == "rejected" or (outcome.reason or "").startswith(("no connection", "http_"))
        self.spent_usd += 0.0 if refused else cost or most
        self._changed.set()
