"""``ziya-visual eval``: put suites to a model, score the files it leaves, and write results and a report.

:func:`run_suite` is the command. :func:`evaluate` measures our own suites (scenes, own JSONL) and
:class:`EvalRun` published data sets; both write files through ``eval/ask`` and take every number from
``eval/score``.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, cast

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl, write_json
from ziya_visual.eval import ask, score
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.eval.models.answer_cache import Answerer, CachedRanker, Ranker
from ziya_visual.eval.models.open import CONCURRENCY, EvalModel, open_model
from ziya_visual.eval.report.page import Sample, write_report
from ziya_visual.eval.results import Metric, Scope, results
from ziya_visual.eval.score.answers import measure_answers
from ziya_visual.eval.score.captions import measure_captions
from ziya_visual.eval.score.retrieval import measure_pools
from ziya_visual.eval.suites import Suite, build_scenes, load_suite
from ziya_visual.eval.suites.formats import read_captioned, read_questions
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

    ``out`` gets ``predictions/<name>.<split>.<lang>.<task>.jsonl`` and ``retrieval/*.npz``. ``tasks`` may be
    :data:`TASKS` and :data:`RERANK`, which need a :class:`Ranker`; those that a section lacks are skipped.
    """
    metrics: list[Metric] = []
    retrieval = ask.Retrieval(cast(Ranker, model), suite.images)
    for (split, lang), section in suite.sections.items():
        for task, examples in (("vqa", section.vqa), ("caption", section.caption)):
            if task not in tasks or not examples:
                continue
            scope = Scope(name, split, lang, task)
            title, limit = f"{name} {split} {lang} {task}", MAX_NEW_TOKENS[task]
            answers = ask.answer_questions(model, examples, suite.images, max_new_tokens=limit, title=title)
            path = ask.write_predictions(out, scope, examples, answers)
            if task == "vqa":
                metrics += measure_answers(path, scope, seed=seed)
            else:
                metrics += measure_captions(path, scope, suite.keywords)
        if "retrieval" in tasks and section.pools:
            scope = Scope(name, split, lang, "retrieval")
            rerank = TOP_K if RERANK in tasks else None
            files = ask.write_pools(retrieval, section.pools, scope, out, top_k=rerank)
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
        if not section.vqa:
            continue
        types = [example.meta.get("question_type", "all") for example in section.vqa]
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for kind, example in zip(types, section.vqa, strict=True):
            counts[kind][example.answers[0]] += 1
        scope = Scope("majority", split, lang, "vqa")
        answers = [counts[kind].most_common(1)[0][0] for kind in types]
        path = ask.write_predictions(out, scope, section.vqa, answers)
        metrics += measure_answers(path, scope, seed=seed)
    return metrics


@dataclass
class EvalRun:
    """A model that is evaluated, and everything that was measured of it so far.

    Attributes:
        out: gets ``predictions/``, ``official/`` and ``retrieval/``.
        failures: data set -> reason -> count.
        not_measured: one line per thing that was left out.
        files: files for other tools: answers, uploads, embeddings.
        cards: data set -> the card of each of its scorings.
        prompts: data set -> how its questions were asked.
    """

    model: EvalModel
    out: Path
    data: Path = DATA
    seed: int = 0
    metrics: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    not_measured: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    cards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[str, dict[str, str]] = field(default_factory=dict)

    def leave_out(self, line: str) -> None:
        """Warn about something that is not measured, and note it for card and report."""
        log.logger.warning("%s", line)
        self.not_measured.append(line)

    def add_suite(self, suite: Suite) -> None:
        """Measure a suite of our own."""
        model, name = self.model, self.model.name
        tasks = (*TASKS, RERANK) if model.ranker is not None else ("vqa", "caption")
        if model.ranker is None and any(section.pools for section in suite.sections.values()):
            self.leave_out(f"{suite.name}: no retrieval, because {name} only generates text")
        self.metrics += evaluate(model.answerer, suite, name=MODEL, out=self.out, tasks=tasks, seed=self.seed)
        self.samples += draw_samples(suite, self.out, model=MODEL, seed=self.seed)
        for split, lang in suite.sections:
            for task in ("vqa", "caption"):
                path = ask.predictions_path(self.out, Scope(MODEL, split, lang, task))
                empty = sum(not row["prediction"] for _, row in read_jsonl(path)) if path.is_file() else 0
                if empty:  # counted as wrong, and reported
                    self.failures[f"{split}.{lang}.{task}"] = {"empty": empty}

    def add_dataset(self, dataset: DataSet, prompt: Prompt) -> None:
        """Ask a published data set, write its official files, and score those as anybody can score them."""
        self.failures.pop(dataset.label, None)
        if dataset.task != "retrieval":
            text = prompt.ask("{question}", plain=self.model.plain)
            self.prompts[dataset.label] = {"text": text, "source": prompt.source}
            self.cards[dataset.label] = []
            self._answer(dataset, prompt)
        elif self.model.ranker is not None:
            self.cards[dataset.label] = []
            self._retrieve(dataset, self.model.ranker)
        else:
            self.leave_out(f"{dataset.title}: not measured, because {self.model.name} only generates text")

    def card(self, title: str, command: str, processes: int) -> dict[str, Any]:
        """Return the card of ``results.json``."""
        return {
            "title": title,
            "command": command,
            "model": self.model.name,
            "kind": self.model.kind,
            "processes": processes,
            "not_measured": self.not_measured,
            "failures": self.failures,
            "files": self.files,
            "scores": self.cards,
            "prompts": self.prompts,
        }

    def _retrieve(self, dataset: DataSet, ranker: CachedRanker) -> None:
        """Measure retrieval by contrastive score, then by contrastive plus matching score in the top k."""
        content, folder, top_k = read_captioned(dataset, self.data), self.out / "retrieval", dataset.top_k
        embeddings, logits = ask.write_embeddings(ranker, content, folder, dataset.label, top_k)
        if distributed.rank() == 0:
            self.files += [str(embeddings), str(logits)]
            count = len(content.texts)
            self._score(dataset, "retrieval", count, embeddings=embeddings)
            self._score(dataset, RERANK, count, embeddings=embeddings, rerank=logits, top_k=top_k)

    def _answer(self, dataset: DataSet, prompt: Prompt) -> None:
        """Ask the questions of a data set and score the answers by all of its rules."""
        model, out = self.model, self.out
        if dataset.task == "caption":
            instruction = prompt.ask("", plain=model.plain)
            questions = ask.caption_questions(dataset, read_captioned(dataset, self.data), instruction)
        else:
            questions = read_questions(dataset, self.data, prompt, plain=model.plain)
        limit, title = dataset.max_new_tokens, dataset.label
        answers = ask.answer_questions(
            model.answerer, questions.examples, questions.images, max_new_tokens=limit, title=title
        )
        if distributed.rank() > 0:
            return
        scope = Scope(MODEL, dataset.name, dataset.lang, dataset.task)
        ask.write_predictions(out, scope, questions.examples, answers)
        path, inputs = ask.write_official_answers(out, dataset, questions, answers, model)
        self.files.append(str(path))
        if dataset.task == "dialogue":
            self._count(dataset, {"empty": sum(not answer.strip() for answer in answers)})
            return
        if dataset.submission is not None:
            upload = out / "official" / f"{dataset.label}.{dataset.submission}-upload.json"
            files = {name: inputs[name] for name in ("questions", "predictions")}
            score.compute("vqa", submission=(dataset.submission, upload), **files)
            self.files.append(str(upload))
        if dataset.task != "caption" and "annotations" not in inputs:
            log.logger.info("%s: the references are not public; upload %s", dataset.title, self.files[-1])
            return
        for number, rule in enumerate(dataset.rules or (None,)):
            only = HEADLINES.get(dataset.task, "") if number else ""
            self._score(dataset, dataset.task, len(answers), only=only, rule=rule, **inputs)

    def _score(self, dataset: DataSet, task: str, count: int, *, only: str = "", **inputs: Any) -> None:
        """Score ``count`` items in files; with ``only``, report that score alone, named with its rule."""
        result = score.compute(dataset.task, **inputs)
        intervals = result["card"]["intervals"]
        for name, value in result["scores"].items():
            if only and name != only:
                continue
            low, high = intervals.get(name, (value, value))  # METEOR and SPICE have no interval
            shown = f"{name}[{inputs['rule']}]" if only else name
            row = MODEL, dataset.name, dataset.lang, task, shown, value, low, high, count
            self.metrics.append(Metric(*row))
        if not only:
            self._count(dataset, result["failures"])
        self.cards[dataset.label].append(result["card"])

    def _count(self, dataset: DataSet, failures: dict[str, int]) -> None:
        total = Counter(self.failures.get(dataset.label, {})) + Counter(failures)
        if total:
            self.failures[dataset.label] = dict(total)


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
        data: folder with the files of named suites.
        seed: seed of the bootstrap of answers, of drawn scenes and of the sample answers.
        concurrency: maximum number of requests to an endpoint in flight.
        dtype: see :func:`~.models.open.open_model`.

    Returns:
        The content of ``results.json``. Under ``torchrun`` only rank 0 writes it. After an error, the answers
        so far are kept.
    """
    loaded = [_load(str(suite), data, seed) for suite in suites]
    seconds: dict[str, float] = {}
    with (
        log.timed(seconds, "total"),
        distributed.process_group() as processes,
        tempfile.TemporaryDirectory() as scratch,
        open_model(str(checkpoint), out=out, concurrency=concurrency, dtype=dtype) as model,
    ):
        if distributed.rank() > 0:
            log.logger.setLevel(logging.ERROR)
        run = EvalRun(model, out if distributed.rank() == 0 else Path(scratch), data, seed)
        for line in chain.from_iterable(_missing(suite, data) for suite in loaded):
            run.leave_out(line)
        for suite in loaded:
            if isinstance(suite, Suite):
                run.add_suite(suite)
            else:
                for dataset in suite.datasets:
                    if not dataset.missing(data):
                        run.add_dataset(dataset, suite.prompt(dataset))
    if model.failures:
        run.failures["no answer"] = dict(model.failures)
    options = " ".join(f"--suite {suite}" for suite in suites)
    options += "" if dtype == "auto" else f" --dtype {dtype}"
    title = f"{model.name} on {', '.join(suite.name for suite in loaded)}"
    command = f"ziya-visual eval {checkpoint} {options} --out {out}"
    versions = {name: version(name) for name in ("ziya-visual", "torch", "transformers")}
    card = run.card(title, command, processes.num_processes)
    content = results(run.metrics, seconds=seconds, seed=seed, versions=versions, card=card)
    if processes.is_main_process:
        write_json(out / "results.json", content)
        write_report(out, content, (), run.samples)
        log.logger.info("report: %s", out / "report.html")
    return content


def _load(suite: str, data: Path, seed: int) -> Suite | NamedSuite:
    """Return a suite; refuse a named one none of whose files exist."""
    name, _, langs = suite.partition(":")
    if name == SCENES:
        return build_scenes(seed, *([langs.split(",")] if langs else []))
    if suite.endswith(".jsonl"):
        return load_suite(Path(suite))
    named = load_named(suite)
    missing = _missing(named, data)
    if len(missing) == len(named.datasets):
        raise DataError(f"--suite {suite}: none of its files are in --data {data}; e.g. {missing[0]}")
    return named


def _missing(suite: Suite | NamedSuite, data: Path) -> list[str]:
    """Return one line for each data set whose files do not exist."""
    lines = [] if isinstance(suite, Suite) else [dataset.missing(data) for dataset in suite.datasets]
    return [line for line in lines if line]


def draw_samples(suite: Suite, out: Path, *, model: str, seed: int) -> list[Sample]:
    """Return right and wrong answers of each split and language with their images, drawn by ``seed``."""
    rng = random.Random(seed)
    samples = []
    for (split, lang), section in suite.sections.items():
        if not section.vqa:
            continue
        rows = [row for _, row in read_jsonl(ask.predictions_path(out, Scope(model, split, lang, "vqa")))]
        for right in (True, False):
            matching = [row for row in rows if same_answer(row["prediction"], row["answers"], lang) == right]
            for row in rng.sample(matching, min(SAMPLES, len(matching))):
                image, truth = suite.images[row["image_id"]], row["answers"][0]
                samples.append(
                    Sample(image, lang, split, "vqa", row["prompt"], row["prediction"], truth, right)
                )
    return samples
