"""``ziya-visual eval``: put suites to a model, score the files it leaves, and write results and a report.

:func:`run_suite` is the command. :func:`evaluate` measures our own suites (scenes, own JSONL) and
:func:`run_dataset` published data sets; both write files through ``eval/ask`` and take every number from
``eval/score``.
"""

from __future__ import annotations

import contextlib
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl, write_json
from ziya_visual.core.records import Example
from ziya_visual.eval import score
from ziya_visual.eval.ask import (
    Retrieval,
    answer_questions,
    caption_questions,
    predictions_path,
    write_embeddings,
    write_official_answers,
    write_pools,
    write_predictions,
)
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.eval.models.answer_cache import Answerer, Ranker
from ziya_visual.eval.models.endpoint import CONCURRENCY
from ziya_visual.eval.models.open import EvalModel, open_model
from ziya_visual.eval.report.page import Sample, write_report
from ziya_visual.eval.results import Metric, Scope, results
from ziya_visual.eval.score.answers import measure_answers
from ziya_visual.eval.score.captions import measure_captions
from ziya_visual.eval.score.retrieval import measure_pools
from ziya_visual.eval.suites import Suite, build_scenes, load_suite
from ziya_visual.eval.suites.formats import Gallery, read_gallery, read_questions
from ziya_visual.eval.suites.named import SCENES, DataSet, NamedSuite, Prompt, load_named
from ziya_visual.infer.quantized import Dtype

DATA = Path("data/eval")  # default folder of the user's copies of published data sets
MODEL = "chat"  # the model's name in metric rows and prediction files
SAMPLES = 6  # right answers, and wrong ones, shown per split and language
TASKS = ("vqa", "caption", "retrieval")
RERANK = "rerank"  # retrieval again, by contrastive plus matching score
TOP_K = 16  # candidates per row and column of a pool of 100 that the matching head ranks again
MAX_NEW_TOKENS = {"vqa": 24, "caption": 128}
HEADLINES = {"vqa": "overall", "gqa": "accuracy"}  # the one score that further rules of a data set report


def evaluate(
    model: Answerer, suite: Suite, *, name: str, out: Path, tasks: Sequence[str] = TASKS, seed: int = 0
) -> list[Metric]:
    """Ask every section of ``suite``, write prediction files, and return the metrics scored from them.

    Args:
        model: answers and, for retrieval, embeds.
        suite: the questions; ``suite.blank()`` asks them about grey images.
        name: of the model in metric rows and file names: ``base``, ``chat``, ``blank`` ...
        out: gets ``predictions/<name>.<split>.<lang>.<task>.jsonl`` and ``retrieval/*.npz``.
        tasks: of :data:`TASKS`, and :data:`RERANK`; tasks that a section lacks are skipped.
        seed: of the bootstrap of answers.
    """
    metrics: list[Metric] = []
    retrieval = Retrieval(cast(Ranker, model), suite.images)
    for (split, lang), section in suite.sections.items():
        for task, examples in (("vqa", section.vqa), ("caption", section.caption)):
            if task not in tasks or not examples:
                continue
            scope = Scope(name, split, lang, task)
            title = f"{name} {split} {lang} {task}"
            answers = answer_questions(
                model, examples, suite.images, max_new_tokens=MAX_NEW_TOKENS[task], title=title
            )
            path = write_predictions(out, scope, examples, answers)
            metrics += (
                measure_answers(path, scope, seed=seed)
                if task == "vqa"
                else measure_captions(path, scope, suite.keywords)
            )
        if "retrieval" in tasks and section.pools:
            scope = Scope(name, split, lang, "retrieval")
            rerank = TOP_K if RERANK in tasks else None
            files = write_pools(retrieval, section.pools, scope, out, top_k=rerank)
            metrics += measure_pools(files, scope)
            if rerank is not None:
                metrics += measure_pools(files, replace(scope, task=RERANK), top_k=rerank)
    return metrics


def majority(suite: Suite, *, out: Path, seed: int = 0) -> list[Metric]:
    """Return the metrics of a blind baseline: always the most frequent answer of the question's type.

    The answers are counted in these very questions, so no constant answer per type scores higher on them.
    """
    metrics = []
    for (split, lang), section in suite.sections.items():
        if section.vqa:
            scope = Scope("majority", split, lang, "vqa")
            path = write_predictions(out, scope, section.vqa, _majority_answers(section.vqa))
            metrics += measure_answers(path, scope, seed=seed)
    return metrics


def _majority_answers(examples: Sequence[Example]) -> list[str]:
    types = [example.meta.get("question_type", "all") for example in examples]
    counts: dict[str, Counter[str]] = {}
    for kind, example in zip(types, examples, strict=True):
        counts.setdefault(kind, Counter())[example.answers[0]] += 1
    return [counts[kind].most_common(1)[0][0] for kind in types]


@dataclass
class Measured:
    """The results of one published data set.

    Attributes:
        metrics: rows of ``results.json``.
        failures: reason -> count, as ``score`` counts them.
        files: files for other tools: answers, uploads, embeddings.
        cards: one card per scoring.
    """

    metrics: list[Metric] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)

    def add_scores(self, form: str, scope: Scope, count: int, *, only: str = "", **inputs: Any) -> None:
        """Score files and add a row per score.

        Args:
            form: of ``score``.
            scope: of the rows.
            count: how many items were scored.
            only: add this score alone, named with its rule.
            **inputs: of ``score``.
        """
        result = score.compute(form, **inputs)
        intervals = result["card"]["intervals"]
        for name, value in result["scores"].items():
            if only and name != only:
                continue
            low, high = intervals.get(name, (value, value))  # METEOR and SPICE have no interval
            shown = f"{name}[{inputs['rule']}]" if only else name
            self.metrics.append(
                Metric(scope.model, scope.split, scope.lang, scope.task, shown, value, low, high, count)
            )
        if not only:
            self.failures.update(result["failures"])
        self.cards.append(result["card"])


def run_dataset(model: EvalModel, dataset: DataSet, *, folder: Path, out: Path, prompt: Prompt) -> Measured:
    """Ask a published data set, write its official files, and score those.

    The files stay in ``out``, so anybody can score them again, with these tools or the official ones.

    Args:
        model: the model; retrieval needs one with a ranker.
        dataset: describes the questions; its files are in ``folder``.
        folder: of the user's copies.
        out: gets ``predictions/``, ``official/`` and ``retrieval/``.
        prompt: how a question is asked.

    Raises:
        ConfigError: the format does not serve the task.
        DataError: a file of another form.
    """
    measured = Measured()
    scope = Scope(MODEL, dataset.name, dataset.lang, dataset.task)
    if dataset.task == "retrieval":
        _retrieve(model, dataset, read_gallery(dataset, folder), out, scope, measured)
        return measured
    if dataset.task == "caption":
        instruction = prompt.ask("", plain=model.plain)
        questions = caption_questions(dataset, read_gallery(dataset, folder), instruction)
    else:
        questions = read_questions(dataset, folder, prompt, plain=model.plain)
    answers = answer_questions(
        model.answerer,
        questions.examples,
        questions.images,
        max_new_tokens=dataset.max_new_tokens,
        title=dataset.label,
    )
    if distributed.rank() == 0:
        write_predictions(out, scope, questions.examples, answers)
        path, inputs = write_official_answers(out, dataset, questions, answers, model)
        measured.files.append(str(path))
        if dataset.task == "dialogue":
            measured.failures = +Counter({"empty": sum(not answer.strip() for answer in answers)})
        else:
            _score_answers(dataset, inputs, out, scope, len(answers), measured)
    return measured


def _retrieve(
    model: EvalModel, dataset: DataSet, content: Gallery, out: Path, scope: Scope, measured: Measured
) -> None:
    """Measure retrieval by contrastive score, then by contrastive plus matching score within the top k."""
    assert model.ranker is not None, "the caller leaves out tasks that a model cannot do"
    folder, count = out / "retrieval", len(content.texts)
    embeddings, logits = write_embeddings(model.ranker, content, folder, dataset.label, dataset.top_k)
    if distributed.rank() == 0:
        measured.files += [str(embeddings), str(logits)]
        measured.add_scores("retrieval", scope, count, embeddings=embeddings)
        scope, top_k = replace(scope, task=RERANK), dataset.top_k
        measured.add_scores("retrieval", scope, count, embeddings=embeddings, rerank=logits, top_k=top_k)


def _score_answers(
    dataset: DataSet, inputs: dict[str, Any], out: Path, scope: Scope, count: int, measured: Measured
) -> None:
    """Write the upload for an evaluation server, if there is one, and score by every rule of the data set."""
    if dataset.submission is not None:
        upload = out / "official" / f"{dataset.label}.{dataset.submission}-upload.json"
        files = {name: inputs[name] for name in ("questions", "predictions")}
        score.compute("vqa", submission=(dataset.submission, upload), **files)
        measured.files.append(str(upload))
    if dataset.task != "caption" and "annotations" not in inputs:
        log.logger.info("%s: the references are not public; upload %s", dataset.title, measured.files[-1])
        return
    for number, rule in enumerate(dataset.rules or (None,)):
        only = HEADLINES.get(dataset.task, "") if number else ""
        measured.add_scores(dataset.task, scope, count, only=only, rule=rule, **inputs)


def run_suite(
    checkpoint: str | Path,
    *suites: str | Path,
    out: Path,
    data: Path = DATA,
    seed: int = 0,
    concurrency: int = CONCURRENCY,
    dtype: Dtype = "auto",
) -> dict[str, Any]:
    """Put suites to a model, and write results and report; a killed run continues where it stopped.

    Args:
        checkpoint: a folder or hub id, ours or any stock image-text model, or ``MODEL@URL``.
        suites: names (see :func:`~.suites.named.names`), YAML files of the same form, or JSONL of ``vqa`` and
            ``caption`` records with images by path (see :mod:`~.suites`).
        out: gets ``results.json``, ``report.html``, ``predictions/*.jsonl`` and the cached answers.
        data: the folder with the files of named suites.
        seed: of the bootstrap of answers, of drawn scenes and of the sample answers.
        concurrency: maximum number of requests to an endpoint in flight.
        dtype: see :func:`~.models.open.open_model`.

    Returns:
        The content of ``results.json``. Under ``torchrun`` only rank 0 writes it.

    Raises:
        CheckpointError: the checkpoint cannot be opened.
        DataError: a suite cannot be read, or none of its files exist.
        EndpointError: the endpoint cannot be reached; answers so far are kept.
    """
    loaded = [_load(str(suite), data, seed) for suite in suites]
    run = _Run()
    seconds: dict[str, float] = {}
    with (
        log.timed(seconds, "total"),
        distributed.process_group() as processes,
        _output_folder(out) as folder,
        open_model(str(checkpoint), out=out, concurrency=concurrency, dtype=dtype) as model,
    ):
        if distributed.rank() > 0:
            log.logger.setLevel(logging.ERROR)
        run.add(loaded, model, data=data, out=folder, seed=seed)
    if model.failures:
        run.failures["no answer"] = dict(model.failures)
    options = " ".join(f"--suite {suite}" for suite in suites)
    options += "" if dtype == "auto" else f" --dtype {dtype}"
    card = {
        "title": f"{model.name} on {', '.join(suite.name for suite in loaded)}",
        "command": f"ziya-visual eval {checkpoint} {options} --out {out}",
        "model": model.name,
        "kind": model.kind,
        "processes": processes.num_processes,
    }
    content = run.results(seconds, seed, card)
    if processes.is_main_process:
        write_json(out / "results.json", content)
        write_report(out, content, (), run.samples)
        log.logger.info("report: %s", out / "report.html")
    return content


@dataclass(frozen=True)
class _LoadedSuite:
    """A suite of our own, or a named suite with the data sets whose files exist."""

    name: str
    own: Suite | None = None
    named: NamedSuite | None = None
    present: tuple[DataSet, ...] = ()
    missing: tuple[str, ...] = ()


def _load(suite: str, data: Path, seed: int) -> _LoadedSuite:
    name, _, langs = suite.partition(":")
    if name == SCENES:
        return _LoadedSuite(SCENES, build_scenes(seed, *([langs.split(",")] if langs else [])))
    if suite.endswith(".jsonl"):
        own = load_suite(Path(suite))
        return _LoadedSuite(own.name, own)
    named = load_named(suite)
    lines = {dataset.label: dataset.missing(data) for dataset in named.datasets}
    present = tuple(dataset for dataset in named.datasets if not lines[dataset.label])
    missing = tuple(line for line in lines.values() if line)
    if not present:
        raise DataError(f"--suite {suite}: none of its files are in --data {data}; e.g. {missing[0]}")
    return _LoadedSuite(named.name, None, named, present, missing)


@dataclass
class _Run:
    """What the suites have contributed so far."""

    metrics: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    not_measured: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=lambda: {"files": [], "scores": {}, "prompts": {}})

    def results(self, seconds: dict[str, float], seed: int, card: dict[str, Any]) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        return results(
            self.metrics,
            seconds=seconds,
            seed=seed,
            versions={name: version(name) for name in ("ziya-visual", "torch", "transformers")},
            card={**card, "not_measured": self.not_measured, "failures": self.failures, **self.card},
        )

    def leave_out(self, line: str) -> None:
        """Warn about something that is not measured, and note it for card and report."""
        log.logger.warning("%s", line)
        self.not_measured.append(line)

    def add(
        self, suites: Sequence[_LoadedSuite], model: EvalModel, *, data: Path, out: Path, seed: int
    ) -> None:
        """Measure all suites."""
        for line in (line for suite in suites for line in suite.missing):
            self.leave_out(line)
        for suite in suites:
            if suite.own is not None:
                self.add_suite(model, suite.own, out=out, seed=seed)
            for dataset in suite.present:
                assert suite.named is not None
                self.add_dataset(model, dataset, suite.named.prompt(dataset), folder=data, out=out)

    def add_suite(self, model: EvalModel, suite: Suite, *, out: Path, seed: int) -> None:
        """Measure a suite of our own."""
        tasks = (*TASKS, RERANK) if model.ranker is not None else ("vqa", "caption")
        if model.ranker is None and any(section.pools for section in suite.sections.values()):
            self.leave_out(f"{suite.name}: no retrieval, because {model.name} only generates text")
        self.metrics += evaluate(model.answerer, suite, name=MODEL, out=out, tasks=tasks, seed=seed)
        self.samples += draw_samples(suite, out, model=MODEL, seed=seed)
        for split, lang in suite.sections:
            for task in ("vqa", "caption"):
                path = predictions_path(out, Scope(MODEL, split, lang, task))
                empty = sum(not row["prediction"] for _, row in read_jsonl(path)) if path.is_file() else 0
                if empty:  # counted as wrong, and reported
                    self.failures[f"{split}.{lang}.{task}"] = {"empty": empty}

    def add_dataset(
        self, model: EvalModel, dataset: DataSet, prompt: Prompt, *, folder: Path, out: Path
    ) -> None:
        """Measure a published data set."""
        if dataset.task == "retrieval" and model.ranker is None:
            self.leave_out(f"{dataset.title}: not measured, because {model.name} only generates text")
            return
        measured = run_dataset(model, dataset, folder=folder, out=out, prompt=prompt)
        self.metrics += measured.metrics
        self.card["files"] += measured.files
        self.card["scores"][dataset.label] = measured.cards
        if dataset.task != "retrieval":
            text = prompt.ask("{question}", plain=model.plain)
            self.card["prompts"][dataset.label] = {"text": text, "source": prompt.source}
        if measured.failures:
            self.failures[dataset.label] = dict(measured.failures)


@contextlib.contextmanager
def _output_folder(out: Path) -> Iterator[Path]:
    """Yield the folder that this rank writes to: ``out`` for rank 0, a temporary one for the others."""
    if distributed.rank() == 0:
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def draw_samples(suite: Suite, out: Path, *, model: str, seed: int) -> list[Sample]:
    """Return right and wrong answers of each split and language with their images, drawn by ``seed``."""
    rng = random.Random(seed)
    samples = []
    for (split, lang), section in suite.sections.items():
        if not section.vqa:
            continue
        rows = [row for _, row in read_jsonl(predictions_path(out, Scope(model, split, lang, "vqa")))]
        for right in (True, False):
            matching = [row for row in rows if same_answer(row["prediction"], row["answers"], lang) == right]
            for row in rng.sample(matching, min(SAMPLES, len(matching))):
                samples.append(
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
    return samples
