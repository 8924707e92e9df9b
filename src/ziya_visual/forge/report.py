"""The files of a forge folder: their names, the status of a run, and a self-contained HTML page."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from ziya_visual.core.files import read_json, read_jsonl, read_text, write_text
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import LEDGER_FILE, Ledger, read_totals
from ziya_visual.forge.ask.limits import dollars

ACCEPTED, REJECTED, REPORT = "accepted.jsonl", "rejected.jsonl", "report.json"
SAMPLES_PER_REASON = 8
_TEMPLATE = Path(__file__).parent / "prompts" / "report.html.jinja"


def reason_names(row: Mapping[str, Any]) -> list[str]:
    """Return the reasons of a rejected row by name, each once, without their details."""
    return list(dict.fromkeys(reason.split(":")[0] for reason in row["reasons"]))


def summary(
    ledger: Ledger, sending: Sending, counts: Mapping[str, int], reasons: Counter[str], started: float
) -> dict[str, Any]:
    """Return the report of a run: its counts, and the tokens and dollars of the ledger's whole life."""
    totals = ledger.totals()
    tokens = {name: totals[name] for name in ("prompt_tokens", "completion_tokens")}
    return {
        **counts,
        "rejected": dict(reasons.most_common()),
        "accepted_percent": round(100 * counts["accepted"] / max(1, counts["records"]), 2),
        **tokens,
        "usd": None if sending.price is None else round(dollars(sending.price, **tokens), 6),
        "seconds": round(time.monotonic() - started, 3),
    }


def status(folder: Path) -> dict[str, Any]:
    """Return the ledger's totals, even during a run, and under ``report`` the last finished report or None.

    A folder of partitions has the sum of their totals; one without a ledger is a ``DataError``.
    """
    partitions = sorted(path.parent for path in folder.glob(f"part-*/{LEDGER_FILE}"))
    states, numbers = Counter[str](), Counter[str]()
    for totals in map(read_totals, partitions or [folder]):
        states.update(totals.pop("states"))
        numbers.update(totals)
    rounded = {name: round(value, 3) for name, value in numbers.items()}
    path = folder / REPORT
    return {"states": dict(states), **rounded, "report": read_json(path) if path.is_file() else None}


def follow(folder: Path, *, seconds: float = 1.0) -> Iterator[dict[str, Any]]:
    """Yield the status repeatedly until no request waits or is in flight."""
    while True:
        current = status(folder)
        yield current
        if not current["states"]["pending"] and not current["states"]["in_flight"]:
            return
        time.sleep(seconds)


def report(folder: Path) -> Path:
    """Write ``report.html``: counts, samples for every reason, and samples of the accepted records."""
    current = status(folder)
    reasons: Counter[str] = Counter()
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(folder / REJECTED):
        reasons.update(reason_names(row))
        for name in reason_names(row):
            if len(samples.setdefault(name, [])) < SAMPLES_PER_REASON:
                samples[name].append(row)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(read_text(_TEMPLATE)).render(
        name=folder.resolve().name,
        status=current,
        reasons=reasons.most_common(),
        samples=samples,
        accepted=list(itertools.islice(_rows(folder / ACCEPTED), 2 * SAMPLES_PER_REASON)),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in read_jsonl(path)) if path.is_file() else iter(())
