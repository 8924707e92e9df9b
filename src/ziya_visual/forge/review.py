"""More opinions on a translation, each a request: a critic, the way back, what the picture shows.

They find what no rule finds, cost as much as the translation, and are asked for by name.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.checks.dictionary import content_stems
from ziya_visual.forge.checks.free_numbers import english_numbers
from ziya_visual.forge.planning import Record, Settings, record_of
from ziya_visual.forge.prompting import language_name, load_prompt, read_json_reply
from ziya_visual.forge.replies import NOT_SENT

REVIEWS = ("critic", "back_translation", "image")
MIN_COMMON = 0.3  # of the words of both English texts, those that both have
MAX_PICTURE_BYTES = 20_000_000


def body(name: str, example: Example, target: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The request of a review.

    Raises:
        DataError: ``image``, and the record's picture cannot be sent.
    """
    values = {
        "language": language_name(settings.to),
        "source_language": language_name(example.lang),
        "source": list(record_of(example, settings).texts),
        "target": list(target),
    }
    content: Any = load_prompt(name).render(values)
    if name == "image":
        content = [{"type": "text", "text": content}, picture(example)]
    messages = [{"role": "user", "content": content}]
    size = sum(len(text.encode()) for text in target)
    return {"model": settings.model, "messages": messages, "max_tokens": 256 + size, "temperature": 0}


def picture(example: Example) -> dict[str, Any]:
    """A record's picture as a part of a message; ``DataError`` where there is none."""
    if example.image is None or example.image.path is None:
        raise DataError(f"record {example.id!r} has no picture by path, which an endpoint that sees needs")
    path = Path(example.image.path)
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not path.is_file() or not kind.startswith("image/") or path.stat().st_size > MAX_PICTURE_BYTES:
        raise DataError(f"{path}: no picture of up to 20 MB; record {example.id!r} names it")
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


def judge(name: str, outcome: Outcome, record: Record, settings: Settings) -> str | None:
    """The reason against the record that a review found, or None."""
    if outcome.answer is None:
        sent = outcome.state not in ("pending", "in_flight")
        return f"endpoint_{outcome.state}: {outcome.reason}" if sent else f"{NOT_SENT}: budget"
    value = read_json_reply(outcome.answer)
    if name == "back_translation":
        lines = value.get("translations") if isinstance(value, dict) else None
        if not isinstance(lines, list):
            return f"{name}: not_json"
        return name if _differ(" ".join(record.texts), " ".join(map(str, lines)), record.lang) else None
    if not isinstance(value, dict) or not isinstance(value.get("ok"), bool):
        return f"{name}: not_json"
    return None if value["ok"] else f"{name}: {str(value.get('why', ''))[:120]}"


def _differ(source: str, back: str, lang: str) -> bool:
    """Whether a text that was translated and back has lost its words or numbers."""
    if not lang.startswith("en"):
        ours, theirs = set(source), set(back)
    else:
        if set(english_numbers(source).firm) - english_numbers(back).any:
            return True
        ours, theirs = set(content_stems(source)), set(content_stems(back))
    return bool(ours) and len(ours & theirs) < MIN_COMMON * len(ours | theirs)
