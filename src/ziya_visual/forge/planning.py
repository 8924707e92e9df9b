"""From examples to requests: equal records once, short ones together, a dialogue by itself.

Everything here is a stream: a million records are planned without being held.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import canonical_json, hash_bytes, hash_json, iterate_examples, read_text
from ziya_visual.core.records import Example
from ziya_visual.forge.ask.ledger import Ask, Ledger
from ziya_visual.forge.prompting import Prompt, language_name

_AT_ONCE = 2000  # records or requests that are held together
# Keys are random, so that each commit writes most pages of their index; a longer log is slow to read.
_BATCHES_A_COMMIT = 32
# What a strict endpoint is told to answer with; one that does not know the field is asked without it.
STRUCTURE: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "translations",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"translations": {"type": "array", "items": {"type": "string"}}},
            "required": ["translations"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Settings:
    """Everything besides the texts that decides what is sent.

    Attributes:
        to: BCP-47 tag of the target language.
        model: the endpoint's name of it.
        prompt: the template.
        params: more of the request's body.
        glossary: source term -> how it must be said.
        shots: example translations, (source, target), that are put in context.
    """

    to: str
    model: str
    prompt: Prompt
    params: Mapping[str, Any]
    glossary: tuple[tuple[str, str], ...] = ()
    shots: tuple[tuple[str, str], ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that the records of a run share."""
        return hash_json([self.to, self.model, self.prompt.hash, dict(self.params), self.shots])

    @functools.cached_property
    def language(self) -> str:
        """The target language's tag without its region."""
        return self.to.split("-")[0]

    def terms(self, texts: Iterable[str]) -> list[tuple[str, str]]:
        """The glossary's entries that occur in the texts, as whole words and regardless of case."""
        joined = "\n".join(texts)
        return [
            (term, said)
            for term, said in self.glossary
            if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", joined, re.IGNORECASE)
        ]


class Record(NamedTuple):
    """What one or more examples have in common: the texts to translate, as one unit.

    ``texts`` are the messages' contents, then those answers that no message holds.
    """

    key: str
    lang: str
    task: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """A JSONL file of records that can be gone through again and again without being held."""

    path: Path

    def __iter__(self) -> Iterator[Example]:
        return iterate_examples(self.path)


def read_glossary(path: Path) -> tuple[tuple[str, str], ...]:
    """A YAML map: source term -> target term.

    Raises:
        ConfigError: the file is no such map.
    """
    try:
        terms = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(terms, dict) or not all(isinstance(v, str) for v in (*terms, *terms.values())):
        raise ConfigError(f"{path}: no glossary; expected one 'source term: target term' a line")
    return tuple(terms.items())


def record_of(example: Example, settings: Settings) -> Record:
    """The record of an example; equal for equal task, language, contents and settings."""
    texts = tuple([message.content for message in example.messages])
    if example.answers:
        texts += tuple([answer for answer in dict.fromkeys(example.answers) if answer not in texts])
    terms = canonical_json(settings.terms(texts)) if settings.glossary else "[]"
    quoted = ",".join(map(encode_basestring, texts))  # canonical_json of it all, in a third of its time
    said = f"[{encode_basestring(example.lang)},{encode_basestring(example.task)},{terms},[{quoted}]]"
    key = hash_bytes(f"{settings.fingerprint}{said}".encode())[:32]
    return Record(key, example.lang, example.task, texts)


def refusal(record: Record, settings: Settings) -> str | None:
    """Why a record cannot be asked for at all, or None."""
    if record.lang.split("-")[0] == settings.language:
        return "already_in_target_language"
    texts = [text.strip() for text in record.texts]
    if not (texts and all(texts)):
        return "empty_source"
    if settings.prompt.plain and any("\n" in text for text in texts):
        return "several_lines_in_plain_prompt"
    return None


def askable(examples: Iterable[Example], settings: Settings) -> Iterator[Record]:
    """The records of the examples, without those that cannot be asked for."""
    for example in examples:
        record = record_of(example, settings)
        if refusal(record, settings) is None:
            yield record


def vetted(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples; one that no run can use raises: an id given twice, a picture that JSONL cannot hold."""
    seen: set[int] = set()
    for example in examples:
        if (name := hash(example.id)) in seen:
            raise DataError(f"two records have the id {example.id!r}; ids must be unique in one forge run")
        seen.add(name)
        if example.image is not None and example.image.bytes is not None:
            raise DataError(f"record {example.id!r} holds its picture as bytes; give pictures by path")
        yield example


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
            "glossary": settings.terms(texts),
            "shots": settings.shots,
        }
    )
    size = sum(len(text.encode()) for text in texts)
    limit = 64 + size // 2 if settings.prompt.plain else 64 * math.ceil((256 + 2 * size) / 64)
    messages = [{"role": "user", "content": prompt}]
    body = {"model": settings.model, "messages": messages, "max_tokens": limit, **settings.params}
    return body if settings.prompt.plain else {"response_format": STRUCTURE, **body}


def first_requests(
    records: Iterable[Record], settings: Settings, texts_per_request: int
) -> Iterator[tuple[list[Record], dict[str, Any]]]:
    """The groups of the first round with their bodies."""
    for group in grouped(records, texts_per_request):
        texts = [text for record in group for text in record.texts]
        yield group, body_of(texts, settings, lang=group[0].lang, dialogue=group[0].task == "dialogue")


def plan_first(
    ledger: Ledger, records: Iterable[Record], settings: Settings, texts_per_request: int
) -> list[str]:
    """Enter the first round into the ledger; records of an earlier run keep the request that served them.

    Returns:
        The keys of the requests that serve the records, each once, in order.
    """
    keys: dict[str, None] = {}
    under_way: set[str] = set()  # grouped, but not in the ledger yet

    def new() -> Iterator[Record]:
        for batch in batched(records, _AT_ONCE):
            unique = {record.key: record for record in batch}
            planned = ledger.planned(list(unique))
            keys.update((planned[key][0].request, None) for key in unique if key in planned)
            for key, record in unique.items():
                if key not in planned and key not in under_way:
                    under_way.add(key)
                    yield record

    with _without_collector(), contextlib.ExitStack() as commit:
        requests_in_batches = batched(first_requests(new(), settings, texts_per_request), _AT_ONCE)
        for number, requests in enumerate(requests_in_batches):
            if number % _BATCHES_A_COMMIT == 0:
                commit.close()
                commit.enter_context(ledger.transaction())
            sent = ledger.add(body for _, body in requests)
            asks = []
            for (group, _), key in zip(requests, sent, strict=True):
                *starts, lines = itertools.accumulate((len(record.texts) for record in group), initial=0)
                asks += [Ask(record.key, 0, key, at, lines) for record, at in zip(group, starts, strict=True)]
            ledger.plan(asks)
            under_way.difference_update(ask.record for ask in asks)
            keys.update(dict.fromkeys(sent))
    return list(keys)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection: records hold no cycles, and looking for them is a fifth of the planning."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
