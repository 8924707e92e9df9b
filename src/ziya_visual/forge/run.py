"""The commands ``forge translate``, ``forge instruct`` and ``forge check``, and ``--engine ray``."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from ziya_visual.core import files
from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.log import progress
from ziya_visual.core.records import to_dict
from ziya_visual.forge import planning
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.checks.any_pair import check, has_end
from ziya_visual.forge.checks.near_duplicates import near_duplicates
from ziya_visual.forge.instruct import KINDS, estimate_instructions, instruct
from ziya_visual.forge.report import ACCEPTED, REJECTED, REPORT
from ziya_visual.forge.translate import TranslationReport, translate

MAX_OPEN_ENDS = 0.4  # share of rows; if more lack the full stop of their source, the file has that style
_SUMMED = ("records", "unique_records", "accepted", "requests", "sent", "prompt_tokens", "completion_tokens")


def run_translate(
    in_path: Path,
    *,
    out: Path,
    sending: Sending,
    glossary: Path | None,
    shots: Path | None,
    extra_checks: Sequence[str],
    dry_run: bool,
    partitions: int | None,
    to: str,
    prompt: str,
    texts_per_request: int,
) -> dict[str, Any]:
    """Translate a file and return the counts; with ``dry_run``, what it would send and cost."""
    wording: dict[str, Any] = {
        "to": to,
        "prompt": prompt,
        "texts_per_request": texts_per_request,
        "glossary": planning.read_glossary(glossary) if glossary else (),
        "shots": planning.read_shots(shots) if shots else (),
    }
    if dry_run:
        return asdict(
            planning.estimate_translation(planning.ExampleFile(in_path), sending=sending, **wording)
        )
    run: Callable[..., TranslationReport] = partial(translate, extra_checks=extra_checks, **wording)
    if partitions is not None:
        return translate_on_ray(run, in_path, out=out, sending=sending, partitions=partitions)
    report = run(planning.ExampleFile(in_path), out=out, sending=sending)
    return {"records": report.records, "accepted": report.accepted, **report.rejected}


def run_instruct(
    in_path: Path,
    *,
    lang: str,
    out: Path,
    sending: Sending,
    kinds: Sequence[str] | None,
    show_image: bool,
    through: str | None,
    dry_run: bool,
    turns: int,
    prompt: str,
) -> dict[str, Any]:
    """Make dialogues and return the counts; with ``through``, make them in that language and translate them.

    ``kinds`` None are all of them. The dialogues in the other language are in ``out / through``.
    """
    made_in, folder = (lang, out) if through is None else (through, out / through)
    examples = files.read_examples(in_path)
    wording: dict[str, Any] = {"lang": made_in, "kinds": kinds or KINDS, "turns": turns, "prompt": prompt}
    if dry_run:
        return asdict(estimate_instructions(examples, sending=sending, **wording))
    report = instruct(examples, out=folder, sending=sending, show_image=show_image, **wording)
    counts = {"records": report["records"], "accepted": report["accepted"], **report["rejected"]}
    if through is None:
        return counts
    if sending.budget_usd is not None and report["usd"] is not None:
        sending = replace(sending, budget_usd=max(0.0, sending.budget_usd - report["usd"]))
    translated = translate(planning.ExampleFile(folder / ACCEPTED), to=lang, out=out, sending=sending)
    return {**counts, "translated": translated.accepted, **translated.rejected}


def check_pairs(path: Path, *, source_lang: str, target_lang: str, out: Path) -> dict[str, Any]:
    """Judge every row of a JSONL file ``{id, source, target}`` without a model; write ``{id, ok, reasons}``.

    Rows keep their order. A row that is not a pair has the reason ``not_a_pair``. The counts are returned,
    with ``near_duplicates``: rows whose target nearly repeats an earlier one with another source.

    Raises:
        DataError: The file cannot be read, or is not JSONL.
    """
    if source_lang == target_lang:
        raise DataError(f"--from and --to are both {source_lang!r}; a translation has two languages")
    numbered = list(files.read_jsonl(path))
    pairs = [planning.read_pair(row) for _, row in numbered]
    present = [pair for pair in pairs if pair is not None]
    open_ends = sum(has_end(source.strip()) and not has_end(target.strip()) for source, target in present)
    ends_matter = open_ends <= MAX_OPEN_ENDS * len(present)
    languages = {"source_lang": source_lang, "target_lang": target_lang}
    rows, counts = [], Counter[str]()
    with progress("forge check", total=len(numbered)) as bar:
        for (number, row), pair in zip(numbered, pairs, strict=True):
            reasons = check(*pair, **languages, ends_matter=ends_matter) if pair else ["not_a_pair"]
            name = row.get("id", number) if isinstance(row, dict) else number
            rows.append({"id": name, "ok": not reasons, "reasons": reasons})
            counts.update(reasons)
            bar.advance()
    files.write_jsonl(out, rows)
    return {
        "pairs": len(rows),
        "ok": sum(row["ok"] for row in rows),
        "reasons": dict(counts.most_common()),
        "near_duplicates": len(near_duplicates(list(dict(present).values()))),
    }


def translate_on_ray(
    run: Callable[..., TranslationReport], in_path: Path, *, out: Path, sending: Sending, partitions: int
) -> dict[str, Any]:
    """Translate a file in partitions on Ray Data, each with its own ledger, and return the summed counts.

    Equal records go to the same partition, so they are paid for once; a killed run continues in each of them.

    Args:
        run: :func:`ziya_visual.forge.translate.translate`, bound to everything but examples, out and sending.
        in_path: JSONL of records.
        out: Folder for one folder per partition, and the joined files of all.
        sending: The budget and the rates in it are shared out evenly, ``concurrency`` is for each partition.
        partitions: Number of partitions, which cannot change afterwards.

    Raises:
        ConfigError: Ray is not installed, or the folder was made with another number of partitions.
        DataError, EndpointError: As ``translate``, from the first partition that fails.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'ziya-visual[ray]'") from error
    folders = [out / f"part-{number:04d}" for number in range(partitions)]
    if (out / f"part-{partitions:04d}").exists():
        raise ConfigError(f"{out} was made with more than {partitions} partitions; keep their number")
    _split(in_path, folders)
    limits = ("budget_usd", "requests_per_minute", "tokens_per_minute")
    shares = {name: value / partitions for name in limits if (value := getattr(sending, name)) is not None}
    shared = replace(sending, **shares)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)

    def work(row: dict[str, Any]) -> dict[str, Any]:
        folder = Path(row["folder"])
        run(planning.ExampleFile(folder / "in.jsonl"), out=folder, sending=shared)
        return row

    rows = [{"folder": str(folder.resolve())} for folder in folders]
    ray.data.from_items(rows, override_num_blocks=partitions).map(work).take_all()
    return _join(out, folders)


def _split(in_path: Path, folders: list[Path]) -> None:
    """Write each partition's share of the input, chosen by the texts so that equal records stay together."""
    with contextlib.ExitStack() as stack:
        streams: list[IO[str]] = []
        for folder in folders:
            path = stack.enter_context(files.atomic_path(folder / "in.jsonl"))
            streams.append(stack.enter_context(path.open("w", encoding="utf-8")))
        for example in planning.vetted(planning.ExampleFile(in_path)):
            texts = [message.content for message in example.messages]
            share = int(files.hash_json([example.lang, example.task, texts, example.answers])[:8], 16)
            streams[share % len(folders)].write(json.dumps(to_dict(example), ensure_ascii=False) + "\n")


def _join(out: Path, folders: list[Path]) -> dict[str, Any]:
    """Join the files of all partitions and write the sum of their reports."""
    for name in (ACCEPTED, REJECTED):
        with files.atomic_path(out / name) as aside, aside.open("wb") as file:
            for folder in folders:
                file.write((folder / name).read_bytes())
    reports = [files.read_json(folder / REPORT) for folder in folders]
    total: dict[str, Any] = {name: sum(report[name] for report in reports) for name in _SUMMED}
    rejected = Counter[str]()
    for report in reports:
        rejected.update(report["rejected"])
    total["rejected"] = dict(rejected.most_common())
    total["accepted_percent"] = round(100 * total["accepted"] / max(1, total["records"]), 2)
    priced = [report["usd"] for report in reports if report["usd"] is not None]
    total["usd"] = round(sum(priced), 6) if priced else None
    total["seconds"] = max(report["seconds"] for report in reports)
    files.write_json(out / REPORT, total)
    return {"records": total["records"], "accepted": total["accepted"], **total["rejected"]}
