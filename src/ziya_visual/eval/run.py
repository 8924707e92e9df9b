"""``eval CKPT --suite NAME|FILE``: a model and what it is asked in, numbers and a page out."""

from __future__ import annotations

import contextlib
import logging
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl
from ziya_visual.eval.benchmark import run_dataset
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.eval.models.endpoint import CONCURRENCY
from ziya_visual.eval.models.open import Opened, opened
from ziya_visual.eval.report.page import Sample, write_report
from ziya_visual.eval.results import Metric, Scope, results, write_results
from ziya_visual.eval.runner import RERANK, TASKS, evaluate, predictions_path
from ziya_visual.eval.suites import Suite, load_suite
from ziya_visual.eval.suites.named import SCENES, DataSet, NamedSuite, load_named
from ziya_visual.eval.suites.scenes import build_suite
from ziya_visual.infer.quantized import Dtype

DATA = Path("data/eval")  # where named suites look for the user's copies
MODEL = "chat"  # of the rows and prediction files (DESIGN, "results.json")
SAMPLES = 6  # of right and of wrong answers, a split and language


@dataclass
class _Run:
    """What has come of the suites so far."""

    metrics: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    not_measured: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=lambda: {"files": [], "scores": {}, "prompts": {}})

    def leave_out(self, line: str) -> None:
        """Say what is not measured, and keep it for card and page."""
        log.logger.warning("%s", line)
        self.not_measured.append(line)


def run_suite(
    checkpoint: str | Path,
    *suites: str | Path,
    out: Path,
    data: Path = DATA,
    seed: int = 0,
    concurrency: int = CONCURRENCY,
    dtype: Dtype = "auto",
) -> dict[str, Any]:
    """Put everything that the suites ask to a model; a killed run goes on where it was.

    Args:
        checkpoint: a folder or hub id of ours or of any stock image-text model, or ``MODEL@URL``.
        suites: names (see :func:`~.suites.named.names`), YAML files of the same form, or JSONL of ``vqa`` and
            ``caption`` records with pictures by path (see :mod:`suites`).
        out: gets ``results.json``, ``report.html``, ``predictions/*.jsonl`` and the answers so far.
        data: the folder with the files of named suites.
        seed: of the bootstrap, of what is drawn, and of the contact sheet.
        concurrency: requests to an endpoint in flight at once.
        dtype: see :func:`.opening.opened`.

    Returns:
        The content of ``results.json``. Under ``torchrun`` only the first process writes it.

    Raises:
        CheckpointError: the checkpoint cannot be opened.
        DataError: a suite cannot be read, or none of its files are there.
        EndpointError: the endpoint cannot be reached; what was answered is kept.
    """
    asked = [_load(str(suite), data, seed) for suite in suites]
    run = _Run()
    seconds: dict[str, float] = {}
    with (
        log.timed(seconds, "total"),
        distributed.process_group() as processes,
        _folder(out) as folder,
        opened(str(checkpoint), out=out, concurrency=concurrency, dtype=dtype) as model,
    ):
        if distributed.rank() > 0:
            log.logger.setLevel(logging.ERROR)
        for line in (line for one in asked for line in one.missing):
            run.leave_out(line)
        for one in asked:
            _put(one, model, run, out=folder, data=data, seed=seed)
    if model.failures:
        run.failures["no answer"] = dict(model.failures)
    options = " ".join(f"--suite {suite}" for suite in suites)
    options += "" if dtype == "auto" else f" --dtype {dtype}"
    recorded = results(
        run.metrics,
        seconds=seconds,
        seed=seed,
        versions={name: version(name) for name in ("ziya-visual", "torch", "transformers")},
        card={
            "title": f"{model.name} on {', '.join(one.name for one in asked)}",
            "command": f"ziya-visual eval {checkpoint} {options} --out {out}",
            "model": model.name,
            "kind": model.kind,
            "processes": processes.num_processes,
            "not_measured": run.not_measured,
            "failures": run.failures,
            **run.card,
        },
    )
    if processes.is_main_process:
        write_results(out / "results.json", recorded)
        write_report(out, recorded, (), run.samples)
        log.logger.info("report: %s", out / "report.html")
    return recorded


@dataclass(frozen=True)
class _Asked:
    """A suite that was found: questions of ours, or published data sets whose files are there."""

    name: str
    suite: Suite | None = None
    named: NamedSuite | None = None
    present: tuple[DataSet, ...] = ()
    missing: tuple[str, ...] = ()


def _load(suite: str, data: Path, seed: int) -> _Asked:
    name, _, langs = suite.partition(":")
    if name == SCENES:
        return _Asked(SCENES, suite=build_suite(seed, *([langs.split(",")] if langs else [])))
    if suite.endswith(".jsonl"):
        own = load_suite(Path(suite))
        return _Asked(own.name, suite=own)
    named = load_named(suite)
    lines = {dataset.label: dataset.missing(data) for dataset in named.datasets}
    present = tuple(dataset for dataset in named.datasets if not lines[dataset.label])
    missing = tuple(line for line in lines.values() if line)
    if not present:
        raise DataError(f"--suite {suite}: none of its files are in --data {data}; e.g. {missing[0]}")
    return _Asked(named.name, named=named, present=present, missing=missing)


def _put(one: _Asked, model: Opened, run: _Run, *, out: Path, data: Path, seed: int) -> None:
    """Ask a suite of a model and add what comes of it to the run."""
    if one.suite is not None:
        tasks = (*TASKS, RERANK) if model.ranker is not None else tuple(t for t in TASKS if t != "retrieval")
        if model.ranker is None and any(section.pools for section in one.suite.sections.values()):
            run.leave_out(f"{one.name}: no retrieval, for {model.name} only speaks")
        run.metrics += evaluate(model.answerer, one.suite, name=MODEL, out=out, tasks=tasks, seed=seed)
        run.samples += samples(one.suite, out, model=MODEL, seed=seed)
        run.failures |= _empty(one.suite, out)
        return
    assert one.named is not None
    for dataset in one.present:
        if dataset.task == "retrieval" and model.ranker is None:
            run.leave_out(f"{dataset.title}: not measured, for {model.name} only speaks")
            continue
        prompt = one.named.prompt(dataset)
        measured = run_dataset(model, dataset, folder=data, out=out, prompt=prompt, name=MODEL)
        run.metrics += measured.metrics
        run.card["files"] += measured.files
        run.card["scores"][dataset.label] = measured.cards
        if dataset.task != "retrieval":
            text = prompt.ask("{question}", plain=model.plain)
            run.card["prompts"][dataset.label] = {"text": text, "source": prompt.source}
        if measured.failures:
            run.failures[dataset.label] = measured.failures


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Where this process writes: all but the first throw away what they wrote."""
    if distributed.rank() == 0:
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _empty(suite: Suite, out: Path) -> dict[str, dict[str, int]]:
    """Questions with no answer at all, by split, language and task: they are wrong, and said."""
    found = {}
    for split, lang in suite.sections:
        for task in ("vqa", "caption"):
            path = predictions_path(out, Scope(MODEL, split, lang, task))
            empty = sum(not row["prediction"] for _, row in read_jsonl(path)) if path.is_file() else 0
            if empty:
                found[f"{split}.{lang}.{task}"] = {"empty": empty}
    return found


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
