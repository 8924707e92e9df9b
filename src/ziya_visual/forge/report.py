"""What a forge folder holds: a dict for ``forge status``, a self-contained HTML page for ``forge report``."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from ziya_visual.core.files import read_json, read_jsonl, read_text, write_text
from ziya_visual.forge.ask.ledger import LEDGER_FILE, read_totals
from ziya_visual.forge.translate import ACCEPTED, REJECTED, REPORT

_TEMPLATE = Path(__file__).parent / "prompts" / "report.html.jinja"
SAMPLES_PER_REASON = 8


def status(folder: Path) -> dict[str, Any]:
    """The ledger's totals, also of a run that is going on, and ``report`` of the last finished one or None.

    A folder of partitions has the sum of theirs.

    Raises:
        DataError: the folder holds no ledger.
    """
    parts = sorted(path.parent for path in folder.glob(f"part-*/{LEDGER_FILE}"))
    totals = [read_totals(part) for part in parts or [folder]]
    path = folder / REPORT
    return {**_sum(totals), "report": read_json(path) if path.is_file() else None}


def follow(folder: Path, *, seconds: float = 1.0) -> Iterator[dict[str, Any]]:
    """The status again and again, until no request waits or is in flight."""
    while True:
        found = status(folder)
        yield found
        if not found["states"]["pending"] and not found["states"]["in_flight"]:
            return
        time.sleep(seconds)


def _sum(totals: list[dict[str, Any]]) -> dict[str, Any]:
    states = Counter[str]()
    numbers = Counter[str]()
    for one in totals:
        states.update(one["states"])
        numbers.update({name: value for name, value in one.items() if name != "states"})
    return {"states": dict(states), **{name: round(value, 3) for name, value in numbers.items()}}


def report(folder: Path, *, out: Path | None = None) -> Path:
    """Write ``report.html`` (or ``out``): counts, every reason with samples, samples of what was accepted."""
    found = status(folder)
    reasons: Counter[str] = Counter()
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(folder / REJECTED):
        for reason in row["reasons"]:
            name = reason.split(":")[0]
            reasons[name] += 1
            if len(samples.setdefault(name, [])) < SAMPLES_PER_REASON:
                samples[name].append(row)
    accepted = list(itertools.islice(_rows(folder / ACCEPTED), 2 * SAMPLES_PER_REASON))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(read_text(_TEMPLATE)).render(
        name=folder.resolve().name,
        status=found,
        reasons=reasons.most_common(),
        samples=samples,
        accepted=accepted,
    )
    path = out or folder / "report.html"
    write_text(path, page)
    return path


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in read_jsonl(path)) if path.is_file() else iter(())
