"""What a forge run would cost, before it is paid: requests, tokens and, with a price table, dollars."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.io import read_examples, read_text
from ziya_visual.forge.planning import Settings, first_requests, record_of, refusal
from ziya_visual.forge.prompting import load_prompt

_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
TOKENS_PER_DENSE_CHARACTER = 0.8  # of current models' tokenizers on Chinese, rounded up
CHARACTERS_PER_TOKEN = 4.0  # English


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the first round; each repaired record adds about its own share. ``usd`` is None without a price."""

    records: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has; within a third for English and Chinese."""
    dense = len(_DENSE.findall(text))
    return round(dense * TOKENS_PER_DENSE_CHARACTER + (len(text) - dense) / CHARACTERS_PER_TOKEN) or 1


def read_prices(path: Path) -> dict[str, tuple[float, float]]:
    """A price table: YAML ``model: {prompt: 0.15, completion: 0.6}``, in dollars per million tokens."""
    try:
        table = yaml.safe_load(read_text(path))
        return {str(m): (float(row["prompt"]), float(row["completion"])) for m, row in table.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no price table; expected 'model: {{prompt: 0.15, completion: 0.6}}' in dollars per"
            " million tokens"
        ) from error


def estimate_translation(
    in_path: Path,
    *,
    to: str,
    model: str,
    prompt: str = "translate",
    texts_per_request: int = 6,
    prices: Mapping[str, tuple[float, float]] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Estimate:
    """Plan a translation without sending or storing anything.

    Raises:
        ConfigError: a price table that lacks the model.
    """
    if prices is not None and model not in prices:
        raise ConfigError(f"no price for model {model!r}{nearest(model, prices)}")
    settings = Settings(to, model, load_prompt(prompt), {"temperature": 0, **(params or {})})
    examples = [example for example in read_examples(in_path) if refusal(example, settings) is None]
    records = {record.key: record for record in (record_of(example, settings) for example in examples)}
    requests = prompt_tokens = completion_tokens = 0
    for group, body in first_requests(records.values(), settings, texts_per_request):
        requests += 1
        prompt_tokens += estimate_tokens(body["messages"][0]["content"])
        # A translation is about as many tokens as its source, Chinese a little more, and its line's frame.
        completion_tokens += sum(
            round(1.3 * estimate_tokens(t)) + 4 for record in group for t in record.texts
        )
    usd = None
    if prices is not None:
        per_prompt, per_completion = prices[model]
        usd = round((prompt_tokens * per_prompt + completion_tokens * per_completion) / 1e6, 4)
    return Estimate(len(records), requests, prompt_tokens, completion_tokens, usd)
