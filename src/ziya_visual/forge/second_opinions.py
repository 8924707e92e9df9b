"""Second opinions on a translation, each one more request: a critic, a back-translation, a look at the image.

They find what no rule finds, cost as much as the translation itself, and are therefore asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ziya_visual.core.records import Example
from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.checks.dictionary import content_stems
from ziya_visual.forge.checks.numbers import english_numbers
from ziya_visual.forge.planning import Record, Settings, record_of
from ziya_visual.forge.prompting import language_name, load_prompt, read_json_reply, with_image

OPINIONS = ("critic", "back_translation", "image")
MIN_COMMON = 0.3  # share of the words of both English texts that both of them have


def opinion_request(name: str, example: Example, target: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the body of a request for an opinion; ``image`` needs an image that can be sent."""
    values = {
        "language": language_name(settings.to),
        "source_language": language_name(example.lang),
        "source": list(record_of(example, settings).texts),
        "target": list(target),
    }
    text = load_prompt(name).render(values)
    content = with_image(text, example) if name == "image" else text
    messages = [{"role": "user", "content": content}]
    size = sum(len(text.encode()) for text in target)
    return {"model": settings.model, "messages": messages, "max_tokens": 256 + size, "temperature": 0}


def objection(name: str, outcome: Outcome, record: Record) -> str | None:
    """Return the reason against a record in the reply to an opinion's request, or None."""
    if outcome.answer is None:
        return outcome.missing
    value = read_json_reply(outcome.answer)
    if name == "back_translation":
        lines = value.get("translations")
        if not isinstance(lines, list):
            return f"{name}: not_json"
        return name if _differs(" ".join(record.texts), " ".join(map(str, lines)), record.lang) else None
    if not isinstance(value.get("ok"), bool):
        return f"{name}: not_json"
    return None if value["ok"] else f"{name}: {str(value.get('why', ''))[:120]}"


def _differs(source: str, back: str, lang: str) -> bool:
    """Return whether a back-translation has lost words or numbers of its source."""
    english = lang.startswith("en")
    if english and set(english_numbers(source).firm) - english_numbers(back).any:
        return True
    before, after = (set(content_stems(text) if english else text) for text in (source, back))
    return bool(before) and len(before & after) < MIN_COMMON * len(before | after)
