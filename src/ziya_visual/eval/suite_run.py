"""``eval CKPT --suite FILE``: a checkpoint of ours and a file of questions in, numbers and a page out."""

from __future__ import annotations

import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.io import read_jsonl
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.eval.report import Sample, write_report
from ziya_visual.eval.results import Scope, results, write_results
from ziya_visual.eval.runner import TASKS, evaluate, predictions_path
from ziya_visual.eval.suites import Suite, load_suite
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.interop import ALIGNMENT

SAMPLES = 6  # of right and of wrong answers, a split and language


def run_suite(checkpoint: Path, suite: Path, *, out: Path, seed: int = 0) -> dict[str, Any]:
    """Put every question of a suite file to a checkpoint.

    Args:
        checkpoint: a folder of ours.
        suite: JSONL of ``vqa`` and ``caption`` records with pictures by path (see :mod:`suites`).
        out: gets ``results.json``, ``report.html`` and ``predictions/*.jsonl``.
        seed: of the bootstrap and of the contact sheet.

    Returns:
        The content of ``results.json``.

    Raises:
        CheckpointError: the checkpoint cannot be opened.
        DataError: the suite cannot be read.
    """
    asked = load_suite(suite)
    seconds: dict[str, float] = {}
    with log.timed(seconds, "total"):
        model = ZiyaVisual.from_pretrained(checkpoint)
        tasks: tuple[str, ...] = TASKS
        if not (checkpoint / ALIGNMENT).is_file():
            log.logger.warning("%s: no retrieval, for it has no %s", checkpoint, ALIGNMENT)
            tasks = tuple(task for task in TASKS if task != "retrieval")
        metrics = evaluate(model, asked, name="chat", out=out, tasks=tasks, seed=seed)
    recorded = results(
        metrics,
        seconds=seconds,
        seed=seed,
        versions={name: version(name) for name in ("ziya-visual", "torch", "transformers")},
        card={
            "title": f"{checkpoint.name} on {asked.name}",
            "command": f"ziya-visual eval {checkpoint} --suite {suite} --out {out}",
        },
    )
    write_results(out / "results.json", recorded)
    write_report(out, recorded, (), samples(asked, out, model="chat", seed=seed))
    log.logger.info("report: %s", out / "report.html")
    return recorded


def samples(suite: Suite, out: Path, *, model: str, seed: int) -> list[Sample]:
    """Some right and some wrong answers of each split and language with their pictures, drawn by ``seed``."""
    rng = random.Random(seed)
    found = []
    for (split, lang), section in suite.sections.items():
        if not section.vqa:
            continue
        rows = [row for _, row in read_jsonl(predictions_path(out, Scope(model, split, lang, "vqa")))]
        for right in (True, False):
            fitting = [row for row in rows if same_answer(row["prediction"], row["answers"], lang) == right]
            for row in rng.sample(fitting, min(SAMPLES, len(fitting))):
                found.append(
                    Sample(
                        image=suite.images[row["image_id"]],
                        lang=lang,
                        split=split,
                        task="vqa",
                        question=row["prompt"],
                        answer=row["prediction"],
                        truth=row["answers"][0],
                        right=right,
                    )
                )
    return found
