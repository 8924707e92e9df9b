"""What a forge folder holds: a dict for ``forge status``, a self-contained HTML page for ``forge report``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jinja2

from ziya_visual.core.io import read_json, read_jsonl, read_text, write_text
from ziya_visual.forge.ledger import read_totals
from ziya_visual.forge.translate import ACCEPTED, REJECTED, REPORT

_TEMPLATE = Path(__file__).parent / "prompts" / "report.html.jinja"
SAMPLES_PER_REASON = 8


def status(folder: Path) -> dict[str, Any]:
    """The ledger's totals, also of a run that is going on, and ``report`` of the last finished one or None.

    Raises:
        DataError: the folder holds no ledger.
    """
    totals = read_totals(folder)
    path = folder / REPORT
    return {**totals, "report": read_json(path) if path.is_file() else None}


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
    accepted = []
    for row in _rows(folder / ACCEPTED):
        accepted.append(row)
        if len(accepted) == 2 * SAMPLES_PER_REASON:
            break
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


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)] if path.is_file() else []
