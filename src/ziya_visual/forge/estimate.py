"""What a forge run would cost, before it is paid: requests, tokens and, with a price table, dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziya_visual.core.files import read_examples
from ziya_visual.forge.ask.cost import Price, dollars, estimate_tokens, price_of
from ziya_visual.forge.instruct import KINDS, body_of, pictures_of
from ziya_visual.forge.planning import ExampleFile, Settings, askable, first_requests
from ziya_visual.forge.prompting import load_prompt

DIALOGUE_TOKENS = 250  # of a made dialogue, about


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the first round; each repaired record adds about its own share. ``usd`` is None without a price."""

    records: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


def estimate_translation(
    in_path: Path,
    *,
    to: str,
    model: str,
    prompt: str = "translate",
    texts_per_request: int = 6,
    prices: Mapping[str, Price] | None = None,
    params: Mapping[str, Any] | None = None,
    glossary: tuple[tuple[str, str], ...] = (),
    shots: tuple[tuple[str, str], ...] = (),
) -> Estimate:
    """Plan a translation without sending or storing anything.

    Raises:
        ConfigError: a price table that lacks the model.
    """
    settings = Settings(to, model, load_prompt(prompt), {"temperature": 0, **(params or {})}, glossary, shots)
    price = price_of(model, prices) if prices is not None else None
    records = list({record.key: record for record in askable(ExampleFile(in_path), settings)}.values())
    requests = prompt_tokens = completion_tokens = 0
    for group, body in first_requests(records, settings, texts_per_request):
        requests += 1
        prompt_tokens += estimate_tokens(body["messages"][0]["content"])
        # A translation is about as many tokens as its source, Chinese a little more, and its line's frame.
        completion_tokens += sum(
            round(1.3 * estimate_tokens(t)) + 4 for record in group for t in record.texts
        )
    usd = None if price is None else round(dollars(price, prompt_tokens, completion_tokens), 4)
    return Estimate(len(records), requests, prompt_tokens, completion_tokens, usd)


def estimate_instructions(
    in_path: Path,
    *,
    lang: str,
    model: str,
    kinds: Sequence[str] = KINDS,
    turns: int = 3,
    prompt: str = "instruct",
    prices: Mapping[str, Price] | None = None,
) -> Estimate:
    """The same for dialogues; pictures that are shown cost more, which is not in it.

    Raises:
        ConfigError: a price table that lacks the model.
    """
    price = price_of(model, prices) if prices is not None else None
    template, pictures = load_prompt(prompt), pictures_of(read_examples(in_path))
    bodies = (body_of(p, kind, template, lang, model, turns, {}) for p in pictures for kind in kinds)
    prompt_tokens = sum(estimate_tokens(body["messages"][0]["content"]) for body in bodies)
    requests = len(pictures) * len(kinds)
    completion_tokens = requests * DIALOGUE_TOKENS
    usd = None if price is None else round(dollars(price, prompt_tokens, completion_tokens), 4)
    return Estimate(requests, requests, prompt_tokens, completion_tokens, usd)
