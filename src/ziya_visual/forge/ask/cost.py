"""What requests cost: tokens, prices, and a budget that is never passed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import read_text
from ziya_visual.forge.ask.ledger import Outcome

_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
TOKENS_PER_DENSE_CHARACTER = 0.8  # of current models' tokenizers on Chinese, rounded up
CHARACTERS_PER_TOKEN = 4.0  # English
Price = tuple[float, float]  # dollars per million tokens of the prompt and of the completion


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has; within a third for English and Chinese."""
    dense = len(_DENSE.findall(text))
    return round(dense * TOKENS_PER_DENSE_CHARACTER + (len(text) - dense) / CHARACTERS_PER_TOKEN) or 1


def read_prices(path: Path) -> dict[str, Price]:
    """A price table: YAML ``model: {prompt: 0.15, completion: 0.6}``, in dollars per million tokens."""
    try:
        table = yaml.safe_load(read_text(path))
        return {str(m): (float(row["prompt"]), float(row["completion"])) for m, row in table.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no price table; expected 'model: {{prompt: 0.15, completion: 0.6}}' in dollars per"
            " million tokens"
        ) from error


def price_of(model: str, prices: Mapping[str, Price]) -> Price:
    """A model's price; ``ConfigError`` where the table lacks it."""
    if model not in prices:
        raise ConfigError(f"no price for model {model!r}{nearest(model, prices)}")
    return prices[model]


def dollars(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """What tokens cost."""
    return (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6


class Budget:
    """A hard cap: a request is sent only where its most that it can cost is left.

    The most is a token a byte of the prompt and ``max_tokens`` of the reply, for every endpoint's tokenizer.
    What came back without token counts is taken to have cost that much, and so is what was given up.
    """

    def __init__(self, limit_usd: float, price: Price, *, spent_usd: float) -> None:
        """``spent_usd`` is what earlier runs of the ledger paid."""
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.exhausted = False
        self._price = price
        self._held: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def reserve(self, key: str, body: Mapping[str, Any]) -> bool:
        """Whether the request may be sent; waits while others' reserves may still come back."""
        while not self.exhausted and not self.hold(key, body):
            if not self._held:
                self.exhausted = True
            else:
                self._changed.clear()
                await self._changed.wait()
        return not self.exhausted

    def hold(self, key: str, body: Mapping[str, Any]) -> bool:
        """Set the most that a request can cost aside, if that much is left."""
        size = len(json.dumps(body["messages"], ensure_ascii=False).encode())
        most = dollars(self._price, size, int(body.get("max_tokens", 0)))
        if self.spent_usd + sum(self._held.values()) + most > self.limit_usd:
            return False
        self._held[key] = most
        return True

    def settle(self, outcome: Outcome) -> None:
        """Take what a request cost instead of what was held for it."""
        most = self._held.pop(outcome.key, 0.0)
        cost = dollars(self._price, outcome.prompt_tokens, outcome.completion_tokens)
        refused = outcome.state == "rejected" or (outcome.reason or "").startswith(("no connection", "http_"))
        self.spent_usd += 0.0 if refused else cost or most
        self._changed.set()
