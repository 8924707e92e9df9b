"""From examples to requests: equal records once, short ones together, each dialogue by itself.

Everything here is a stream, so a million records are planned without being held in memory.
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

from ziya_visual.core import files
from ziya_visual.core.errors import ConfigError, DataError, one_line
from ziya_visual.core.records import Example
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Ask, Ledger
from ziya_visual.forge.ask.limits import dollars, estimate_tokens
from ziya_visual.forge.prompting import Prompt, language_name, load_prompt

Pairs = tuple[tuple[str, str], ...]
_AT_ONCE = 2000  # records or requests that are held together
# Keys are random, so each commit writes most pages of their index, and a longer log is slow to read.
_BATCHES_PER_COMMIT = 32
# The reply's schema for strict endpoints; one that does not know the field is asked without it.
_SCHEMA = {
    "type": "object",
    "properties": {"translations": {"type": "array", "items": {"type": "string"}}},
    "required": ["translations"],
    "additionalProperties": False,
}
STRUCTURE: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "translations", "strict": True, "schema": _SCHEMA},
}


@dataclass(frozen=True)
class Settings:
    """Everything besides the texts that decides the body of a request.

    ``params`` are further fields of the body, ``glossary`` pairs of a term and its required translation, and
    ``shots`` example translations, (source, target), that are put in context.
    """

    to: str
    model: str
    prompt: Prompt
    params: Mapping[str, Any]
    glossary: Pairs = ()
    shots: Pairs = ()

    @staticmethod
    def of(to: str, sending: Sending, prompt: str, glossary: Pairs = (), shots: Pairs = ()) -> Settings:
        """Load the prompt and set temperature 0, unless ``sending`` has another.

        Raises:
            ConfigError: No such prompt, or one without a place for a glossary or examples.
        """
        template = load_prompt(prompt)
        if template.plain and (glossary or shots):
            raise ConfigError(f"prompt {prompt!r} has no place for a glossary or examples; use 'translate'")
        return Settings(to, sending.model, template, {"temperature": 0, **sending.params}, glossary, shots)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return a hash of everything that the records of a run share."""
        return files.hash_json([self.to, self.model, self.prompt.hash, dict(self.params), self.shots])

    def terms(self, texts: Iterable[str]) -> list[tuple[str, str]]:
        """Return the glossary's entries that occur in the texts as whole words, ignoring case."""
        joined = "\n".join(texts)
        return [
            (term, translation)
            for term, translation in self.glossary
            if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", joined, re.IGNORECASE)
        ]


class Record(NamedTuple):
    """The texts that one or more equal examples need translated, as one unit.

    ``texts`` are the contents of the messages, then those answers that no message contains.
    """

    key: str
    lang: str
    task: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """A JSONL file of records that can be read repeatedly without being held in memory."""

    path: Path

    def __iter__(self) -> Iterator[Example]:
        return files.iterate_examples(self.path)


def read_glossary(path: Path) -> Pairs:
    """Read a YAML map of source terms to target terms; ``ConfigError`` if the file is none."""
    try:
        terms = yaml.safe_load(files.read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({one_line(error, 120)})") from error
    if not isinstance(terms, dict) or not all(isinstance(v, str) for v in (*terms, *terms.values())):
        raise ConfigError(f"{path}: not a glossary; expected one 'source term: target term' per line")
    return tuple(terms.items())


def read_pair(row: Any) -> tuple[str, str] | None:
    """Return the ``source`` and ``target`` of a JSON row, or None if it lacks either text."""
    source, target = (row.get("source"), row.get("target")) if isinstance(row, dict) else (None, None)
    return (source, target) if isinstance(source, str) and isinstance(target, str) else None


def read_shots(path: Path) -> Pairs:
    """Read example translations from JSONL of ``{source, target}``; ``DataError`` at the first bad row."""
    shots = []
    for number, row in files.read_jsonl(path):
        pair = read_pair(row)
        if pair is None:
            raise DataError(f"{path}: line {number} is not an example; expected the texts source and target")
        shots.append(pair)
    return tuple(shots)


def record_of(example: Example, settings: Settings) -> Record:
    """Return the record of an example, which is equal for equal task, language, contents and settings."""
    texts = tuple([message.content for message in example.messages])
    if example.answers:
        texts += tuple([answer for answer in dict.fromkeys(example.answers) if answer not in texts])
    terms = files.canonical_json(settings.terms(texts)) if settings.glossary else "[]"
    quoted = ",".join(map(encode_basestring, texts))  # equals canonical_json, in a third of its time
    content = f"[{encode_basestring(example.lang)},{encode_basestring(example.task)},{terms},[{quoted}]]"
    key = files.hash_bytes(f"{settings.fingerprint}{content}".encode())[:32]
    return Record(key, example.lang, example.task, texts)


def refusal(record: Record, settings: Settings) -> str | None:
    """Return why a record cannot be sent at all, or None."""
    if record.lang.split("-")[0] == settings.to.split("-")[0]:
        return "already_in_target_language"
    texts = [text.strip() for text in record.texts]
    if not (texts and all(texts)):
        return "empty_source"
    if settings.prompt.plain and any("\n" in text for text in texts):
        return "several_lines_in_plain_prompt"
    return None


def sendable(examples: Iterable[Example], settings: Settings) -> Iterator[Record]:
    """Yield the records of the examples, without those that cannot be sent."""
    for example in examples:
        record = record_of(example, settings)
        if refusal(record, settings) is None:
            yield record


def vetted(examples: Iterable[Example]) -> Iterator[Example]:
    """Yield the examples; raise ``DataError`` for a repeated id or an image held as bytes, unusable here."""
    seen: set[int] = set()
    for example in examples:
        if (name := hash(example.id)) in seen:
            raise DataError(f"two records have the id {example.id!r}; ids must be unique in one forge run")
        seen.add(name)
        if example.image is not None and example.image.bytes is not None:
            raise DataError(f"record {example.id!r} holds its image as bytes; give images by path")
        yield example


def grouped(records: Iterable[Record], texts_per_request: int) -> Iterator[list[Record]]:
    """Yield neighbours of one language that fit into a request; dialogues and long records come alone."""
    if texts_per_request < 1:
        raise ConfigError(f"texts_per_request is {texts_per_request}, expected at least 1")
    group: list[Record] = []
    lines = 0
    for record in records:
        if record.task == "dialogue" or len(record.texts) >= texts_per_request:
            yield [record]
            continue
        if group and (lines + len(record.texts) > texts_per_request or group[0].lang != record.lang):
            yield group
            group, lines = [], 0
        group.append(record)
        lines += len(record.texts)
    if group:
        yield group


def body_of(
    texts: Sequence[str], settings: Settings, *, lang: str, dialogue: bool, reasons: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the body of a request; ``max_tokens`` bounds the cost of a model that does not stop."""
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
    """Yield the groups of the first round with their bodies."""
    for group in grouped(records, texts_per_request):
        texts = [text for record in group for text in record.texts]
        yield group, body_of(texts, settings, lang=group[0].lang, dialogue=group[0].task == "dialogue")


def plan_first(
    ledger: Ledger, records: Iterable[Record], settings: Settings, texts_per_request: int
) -> list[str]:
    """Enter the first round into the ledger, and return the keys that serve the records, each once, in order.

    Records of an earlier run keep the request that served them.
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
            if number % _BATCHES_PER_COMMIT == 0:
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
    """Pause garbage collection: records have no cycles, and looking for them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of a first round, to which repairs add; ``usd`` is None without a price."""

    records: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


def estimate(
    sending: Sending, records: int, bodies: Iterable[dict[str, Any]], completion_tokens: int
) -> Estimate:
    """Estimate what the requests of some records and their completions cost."""
    tokens = [estimate_tokens(body["messages"][0]["content"]) for body in bodies]
    usd = dollars(sending.price, sum(tokens), completion_tokens) if sending.price else None
    rounded = None if usd is None else round(usd, 4)
    return Estimate(records, len(tokens), sum(tokens), completion_tokens, rounded)


def estimate_translation(
    examples: Iterable[Example],
    *,
    to: str,
    sending: Sending,
    prompt: str = "translate",
    texts_per_request: int = 6,
    glossary: Pairs = (),
    shots: Pairs = (),
) -> Estimate:
    """Plan a translation without sending or storing anything."""
    settings = Settings.of(to, sending, prompt, glossary, shots)
    records = list({record.key: record for record in sendable(examples, settings)}.values())
    bodies = (body for _, body in first_requests(records, settings, texts_per_request))
    # A translation has about as many tokens as its source, Chinese a few more, and the frame of its line.
    completion = sum(round(1.3 * estimate_tokens(text)) + 4 for record in records for text in record.texts)
    return estimate(sending, len(records), bodies, completion)
