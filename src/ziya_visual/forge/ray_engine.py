"""``--engine ray``: partitions of a file on Ray Data, each with a ledger of its own.

Equal records go to the same partition, so that they are paid once; a killed run goes on in each of them.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import IO, Any

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import atomic_path, hash_json, read_json, write_json
from ziya_visual.core.records import Example, to_dict
from ziya_visual.forge.planning import ExampleFile, vetted
from ziya_visual.forge.translate import ACCEPTED, REJECTED, REPORT, translate_file

PART = "part-{:04d}"
_SUMMED = ("records", "unique_records", "accepted", "requests", "sent", "prompt_tokens", "completion_tokens")


def translate_on_ray(in_path: Path, *, out: Path, partitions: int, **options: Any) -> dict[str, Any]:
    """:func:`ziya_visual.forge.translate.translate_file` in pieces; returns the sum of their reports.

    Args:
        in_path: JSONL of records.
        out: gets a folder a partition, and the joined files of all; partitions cannot change afterwards.
        partitions: how many; the endpoint sees ``concurrency`` requests of each that runs.
        options: of ``translate``; a budget and rates are shared out evenly.

    Raises:
        ConfigError: Ray is not installed, or the folder was made with another number of partitions.
        DataError, EndpointError: as ``translate``, of the first partition that fails.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'ziya-visual[ray]'") from error
    folders = [out / PART.format(number) for number in range(partitions)]
    if (out / PART.format(partitions)).exists():
        raise ConfigError(f"{out} was made with more than {partitions} partitions; keep their number")
    _split(in_path, folders)
    for name in ("budget_usd", "requests_per_minute", "tokens_per_minute"):
        if options.get(name) is not None:
            options[name] /= partitions
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)

    def work(row: dict[str, Any]) -> dict[str, Any]:
        folder = Path(row["folder"])
        translate_file(folder / "in.jsonl", out=folder, **options)
        return row

    rows = [{"folder": str(folder.resolve())} for folder in folders]
    ray.data.from_items(rows, override_num_blocks=partitions).map(work).take_all()
    return _join(out, folders)


def _split(in_path: Path, folders: list[Path]) -> None:
    """Write each partition's share of the input: by the texts, so that equal ones stay together."""
    with contextlib.ExitStack() as stack:
        files: list[IO[str]] = []
        for folder in folders:
            path = stack.enter_context(atomic_path(folder / "in.jsonl"))
            files.append(stack.enter_context(path.open("w", encoding="utf-8")))
        for example in vetted(ExampleFile(in_path)):
            line = json.dumps(to_dict(example), ensure_ascii=False)
            files[_share(example) % len(folders)].write(line + "\n")


def _share(example: Example) -> int:
    said = [example.lang, example.task, [message.content for message in example.messages], example.answers]
    return int(hash_json(said)[:8], 16)


def _join(out: Path, folders: list[Path]) -> dict[str, Any]:
    """All partitions' files as one, and the sum of their reports."""
    for name in (ACCEPTED, REJECTED):
        with atomic_path(out / name) as aside, aside.open("wb") as file:
            for folder in folders:
                file.write((folder / name).read_bytes())
    reports = [read_json(folder / REPORT) for folder in folders]
    if not reports:
        raise DataError(f"{out}: no partition was made")
    total: dict[str, Any] = {name: sum(report[name] for report in reports) for name in _SUMMED}
    rejected = Counter[str]()
    for report in reports:
        rejected.update(report["rejected"])
    total["rejected"] = dict(rejected.most_common())
    total["accepted_percent"] = round(100 * total["accepted"] / max(1, total["records"]), 2)
    priced = [report["usd"] for report in reports if report["usd"] is not None]
    total["usd"] = round(sum(priced), 6) if priced else None
    total["seconds"] = max(report["seconds"] for report in reports)
    write_json(out / REPORT, total)
    return {"records": total["records"], "accepted": total["accepted"], **total["rejected"]}
