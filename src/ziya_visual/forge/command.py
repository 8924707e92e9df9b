"""The two commands that pay: their files read, their dry runs, and what they say at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl
from ziya_visual.forge.ask.cost import Price, price_of, read_prices
from ziya_visual.forge.estimate import estimate_instructions, estimate_translation
from ziya_visual.forge.instruct import instruct_file
from ziya_visual.forge.planning import read_glossary
from ziya_visual.forge.translate import ACCEPTED, translate_file


def run_translate(
    in_path: Path,
    *,
    to: str,
    out: Path,
    model: str,
    base_url: Sequence[str],
    glossary: Path | None,
    shots: Path | None,
    prices: Path | None,
    dry_run: bool,
    partitions: int | None,
    prompt: str,
    texts_per_request: int,
    **options: Any,
) -> dict[str, Any]:
    """``forge translate``: what it made, or with ``dry_run`` what it would send and cost."""
    shared: dict[str, Any] = {
        "to": to,
        "model": model,
        "prompt": prompt,
        "texts_per_request": texts_per_request,
        "glossary": read_glossary(glossary) if glossary else (),
        "shots": read_shots(shots) if shots else (),
    }
    if dry_run:
        table = read_prices(prices) if prices else None
        return asdict(estimate_translation(in_path, prices=table, **shared))
    options |= {"base_url": list(base_url), "price": _price(model, prices), **shared}
    if partitions is not None:
        from ziya_visual.forge.ray_engine import translate_on_ray

        return translate_on_ray(in_path, out=out, partitions=partitions, **options)
    report = translate_file(in_path, out=out, **options)
    return {"records": report.records, "accepted": report.accepted, **report.rejected}


def run_instruct(
    in_path: Path,
    *,
    lang: str,
    out: Path,
    model: str,
    base_url: Sequence[str],
    through: str | None,
    prices: Path | None,
    dry_run: bool,
    budget_usd: float | None,
    **options: Any,
) -> dict[str, Any]:
    """``forge instruct``; with ``through`` in that language first (in ``out / through``) and translated."""
    made_in, folder = (lang, out) if through is None else (through, out / through)
    if dry_run:
        kinds = {name: options[name] for name in ("kinds", "turns", "prompt") if name in options}
        table = read_prices(prices) if prices else None
        return asdict(estimate_instructions(in_path, lang=made_in, model=model, prices=table, **kinds))
    paid: dict[str, Any] = {
        "base_url": list(base_url), "model": model, "price": _price(model, prices), "budget_usd": budget_usd
    }  # fmt: skip
    report = instruct_file(in_path, lang=made_in, out=folder, **paid, **options)
    found = {"records": report["records"], "accepted": report["accepted"], **report["rejected"]}
    if through is None:
        return found
    if budget_usd is not None and report["usd"] is not None:
        paid["budget_usd"] = max(0.0, budget_usd - report["usd"])
    for name in ("kinds", "turns", "prompt", "with_image"):
        options.pop(name, None)
    translated = translate_file(folder / ACCEPTED, to=lang, out=out, **paid, **options)
    return {**found, "translated": translated.accepted, **translated.rejected}


def read_shots(path: Path) -> tuple[tuple[str, str], ...]:
    """JSONL of ``{source, target}``; ``DataError`` at the first row that is none."""
    found = []
    for number, row in read_jsonl(path):
        texts = (row.get("source"), row.get("target")) if isinstance(row, dict) else (None, None)
        if not isinstance(texts[0], str) or not isinstance(texts[1], str):
            raise DataError(f"{path}: line {number} is no example; expected the texts source and target")
        found.append((texts[0], texts[1]))
    return tuple(found)


def _price(model: str, prices: Path | None) -> Price | None:
    return price_of(model, read_prices(prices)) if prices else None
