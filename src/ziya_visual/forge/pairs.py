"""Judge translation pairs from anywhere, without a model: ``forge check``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl, write_jsonl
from ziya_visual.core.log import progress
from ziya_visual.forge.checks.any_pair import check, ends
from ziya_visual.forge.checks.near_duplicates import near_duplicates

MAX_OPEN_ENDS = 0.4  # of a file's rows: where more lack the full stop of their source, it is a style


def check_pairs(path: Path, *, source_lang: str, target_lang: str, out: Path) -> dict[str, Any]:
    """Judge every row of a JSONL file ``{id, source, target}`` into ``out``: ``{id, ok, reasons}``.

    Rows keep their order. A row that is no pair is judged too: reason ``not_a_pair``.

    Returns:
        ``{"pairs": n, "ok": n, "reasons": {reason: rows}, "near_duplicates": n}``, most frequent reason
        first; near-duplicates are rows whose target nearly repeats an earlier one's, with another source.

    Raises:
        DataError: the file cannot be read, or is no JSONL.
    """
    if source_lang == target_lang:
        raise DataError(f"--from and --to are both {source_lang!r}; a translation has two languages")
    read = [(number, row) for number, row in read_jsonl(path)]
    texts = [_texts(row) for _, row in read]
    given = [pair for pair in texts if pair is not None]
    missing = sum(ends(source.strip()) and not ends(target.strip()) for source, target in given)
    ends_matter = missing <= MAX_OPEN_ENDS * len(given)
    rows, reasons = [], Counter[str]()
    with progress("forge check", total=len(read)) as bar:
        for (number, row), pair in zip(read, texts, strict=True):
            found = ["not_a_pair"]
            if pair is not None:
                found = check(
                    *pair, source_lang=source_lang, target_lang=target_lang, ends_matter=ends_matter
                )
            name = row.get("id", number) if isinstance(row, dict) else number
            rows.append({"id": name, "ok": not found, "reasons": found})
            reasons.update(found)
            bar.advance()
    write_jsonl(out, rows)
    return {
        "pairs": len(rows),
        "ok": sum(row["ok"] for row in rows),
        "reasons": dict(reasons.most_common()),
        "near_duplicates": len(near_duplicates([target for _, target in dict(given).items()])),
    }


def _texts(row: Any) -> tuple[str, str] | None:
    source, target = (row.get("source"), row.get("target")) if isinstance(row, dict) else (None, None)
    return (source, target) if isinstance(source, str) and isinstance(target, str) else None
