"""From examples to requests: equal records once, short ones together, a dialogue by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.io import hash_json
from ziya_visual.core.records import Example
from ziya_visual.forge.ledger import Ask, Ledger
from ziya_visual.forge.prompting import Prompt, language_name


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything besides the texts that decides what is sent."""

    to: str
    model: str
    prompt: Prompt
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What one or more examples have in common: the texts to translate, as one unit.

    ``texts`` are the messages' contents, then those answers that no message holds.
    """

    key: str
    lang: str
    task: str
    texts: tuple[str, ...]


def record_of(example: Example, settings: Settings) -> Record:
    """The record of an example; equal for equal task, language, contents and settings."""
    contents = [message.content for message in example.messages]
    extra = [answer for answer in dict.fromkeys(example.answers) if answer not in contents]
    texts = tuple(contents + extra)
    sent = [settings.to, settings.model, settings.prompt.hash, dict(settings.params), example.lang]
    return Record(hash_json([*sent, example.task, texts]), example.lang, example.task, texts)


def refusal(example: Example, settings: Settings) -> str | None:
    """Why an example cannot be asked for at all, or None."""
    texts = [message.content for message in example.messages] + list(example.answers)
    if example.lang.split("-")[0] == settings.to.split("-")[0]:
        return "already_in_target_language"
    if not texts or not all(text.strip() for text in texts):
        return "empty_source"
    if settings.prompt.plain and any("\n" in text.strip() for text in texts):
        return "several_lines_in_plain_prompt"
    return None


def refuse_unusable(examples: Sequence[Example]) -> None:
    """Raise before anything is paid: equal ids, or pictures that JSONL cannot hold."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"two records have the id {example.id!r}; ids must be unique in one forge run")
        seen.add(example.id)
        if example.image is not None and example.image.bytes is not None:
            raise DataError(f"record {example.id!r} holds its picture as bytes; give pictures by path")


def grouped(records: Iterable[Record], texts_per_request: int) -> Iterator[list[Record]]:
    """Neighbours of one language that fit into a request; dialogues and long records alone."""
    if texts_per_request < 1:
        raise ConfigError(f"texts_per_request is {texts_per_request}, expected at least 1")
    held: list[Record] = []
    lines = 0
    for record in records:
        alone = record.task == "dialogue" or len(record.texts) >= texts_per_request
        if alone:
            yield [record]
            continue
        if held and (lines + len(record.texts) > texts_per_request or held[0].lang != record.lang):
            yield held
            held, lines = [], 0
        held.append(record)
        lines += len(record.texts)
    if held:
        yield held


def body_of(
    texts: Sequence[str], settings: Settings, *, lang: str, dialogue: bool, reasons: Sequence[str] = ()
) -> dict[str, Any]:
    """The request's body. ``max_tokens`` bounds what a model that does not end can cost."""
    prompt = settings.prompt.render(
        {
            "language": language_name(settings.to),
            "source_language": language_name(lang),
            "texts": [text.strip() for text in texts],
            "dialogue": dialogue,
            "reasons": list(reasons),
        }
    )
    size = sum(len(text.encode()) for text in texts)
    limit = 64 + size // 2 if settings.prompt.plain else 64 * math.ceil((256 + 2 * size) / 64)
    messages = [{"role": "user", "content": prompt}]
    return {"model": settings.model, "messages": messages, "max_tokens": limit, **settings.params}


def first_requests(
    records: Iterable[Record], settings: Settings, texts_per_request: int
) -> Iterator[tuple[list[Record], dict[str, Any]]]:
    """The groups of the first round with their bodies."""
    for group in grouped(records, texts_per_request):
        texts = [text for record in group for text in record.texts]
        yield group, body_of(texts, settings, lang=group[0].lang, dialogue=group[0].task == "dialogue")


def plan_first(
    ledger: Ledger, records: Sequence[Record], settings: Settings, texts_per_request: int
) -> dict[str, Ask]:
    """Enter the first round into the ledger; records of an earlier run keep the request that served them."""
    planned = ledger.planned(0)
    new = (record for record in records if record.key not in planned)
    for batch in batched(first_requests(new, settings, texts_per_request), 1000):
        keys = ledger.add(body for _, body in batch)
        asks = []
        for (group, _), key in zip(batch, keys, strict=True):
            *starts, lines = itertools.accumulate((len(record.texts) for record in group), initial=0)
            asks += [Ask(record.key, 0, key, at, lines) for record, at in zip(group, starts, strict=True)]
        ledger.plan(asks)
        planned.update((ask.record, ask) for ask in asks)
    return {record.key: planned[record.key] for record in records}


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
