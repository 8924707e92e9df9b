"""The whole system in miniature, offline: the page to read first.

1. **Draw** a world of coloured shapes, with English captions, questions and dialogues.
2. **Forge** the Chinese half: a tiny language model translates, behind our own HTTP server.
3. **Train** a vision-language model in three stages on both languages.
4. **Evaluate** Base and Chat on new scenes, and on shape-colour pairs that no training picture showed.

The same functions train and evaluate models of 14 billion parameters.
"""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.files import atomic_dir, read_examples, read_json, write_json, write_records
from ziya_visual.core.recipe import load_recipe
from ziya_visual.core.records import Example
from ziya_visual.eval.judge.leaderboard import leaderboard
from ziya_visual.eval.judge.run import judge_predictions
from ziya_visual.eval.report.page import Target, write_report
from ziya_visual.eval.results import Metric, Scope, results
from ziya_visual.eval.run import draw_samples, evaluate, majority
from ziya_visual.eval.suites import Suite, build_scenes
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.translate import translate
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.scenes import dataset
from ziya_visual.scenes.language import is_image_text
from ziya_visual.serve.server import running_server
from ziya_visual.train.pretrain import SHIPPED, pretrain_parts, read_card
from ziya_visual.train.run import run_recipe

RECIPE = Path(__file__).parent / "recipes" / "quickstart.yaml"
IMAGES, QUESTIONS, DIALOGUES = 3000, 8, 600
TEXTS_PER_REQUEST, CONCURRENCY = 4, 160
PACKAGES = ("ziya-visual", "torch", "transformers", "peft", "tokenizers")
CHECKPOINTS = {"base": "base", "chat": "checkpoint"}  # stage -> folder

# Floors gate CI; aims are where we want to be. All values are percentages.
TARGETS = (
    Target("vqa", "accuracy", "new", floor=85, aim=95),
    Target("vqa", "accuracy", "unseen", floor=75, aim=90),
    Target("retrieval", "i2t_r1", "new", floor=95, aim=98),
    Target("retrieval", "t2i_r1", "new", floor=95, aim=98),
    Target("retrieval", "i2t_r1", "unseen", floor=85, aim=95),
    Target("retrieval", "t2i_r1", "unseen", floor=85, aim=95),
    Target("caption", "keyword_f1", "new", floor=90, aim=97),
)


def quickstart(out: Path, *, seed: int = 0, from_scratch: bool = False) -> dict[str, Any]:
    """Draw, forge, train, evaluate and report; return what ``results.json`` holds. A killed run resumes.

    Args:
        out: Receives ``data/``, ``base/``, ``checkpoint/`` (Chat), ``results.json``, ``report.html`` and
            ``leaderboard/``, where Base and Chat are judged against the true scenes.
        seed: Seed of everything that is drawn or initialised.
        from_scratch: Also pre-train the tiny ViT and language model, which a real project would download.
    """
    seconds: dict[str, float] = {}
    with log.timed(seconds, "total"):
        parts = out / "parts" if from_scratch else SHIPPED
        if from_scratch:
            with log.timed(seconds, "parts"):
                pretrain_parts(parts, seed=seed)
        with log.timed(seconds, "draw"):
            english = dataset.write_training(
                out / "data", seed=seed, images=IMAGES, questions_per_image=QUESTIONS, dialogues=DIALOGUES
            )
            write_records(out / "data" / "english.jsonl", english)
        with log.timed(seconds, "forge"):
            forge_metrics = _forge(out, parts, english)
        with log.timed(seconds, "train"):
            curve = _train(out, parts, seed)
        with log.timed(seconds, "evaluate"):
            suite = build_scenes(seed)
            metrics = forge_metrics + _evaluate(out, suite, seed)
            judge_predictions(out / "predictions", ("base", "chat"), out=out / "judge")
            leaderboard([out / "judge"], out=out / "leaderboard", seed=seed)
    recorded = results(
        metrics,
        seconds=seconds,
        seed=seed,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        card={
            "title": "Ziya-Visual in miniature",
            "command": f"ziya-visual quickstart --seed {seed}" + (" --from-scratch" if from_scratch else ""),
            "parts": read_card(parts),
        },
    )
    write_json(out / "results.json", recorded)
    write_report(out, recorded, curve, draw_samples(suite, out, model="chat", seed=seed), targets=TARGETS)
    log.logger.info("report: %s", out / "report.html")
    return recorded


def _forge(out: Path, parts: Path, english: list[Example]) -> list[Metric]:
    """Translate the records into Chinese through a real endpoint; only accepted records are trained on."""
    texts = [message.content for example in english for message in example.messages]
    leaked = [text for text in texts if " " in text and not is_image_text(text)]
    assert not leaked, f"sentences that the language model was pre-trained to translate: {leaked[:3]}"
    folder = out / "data" / "forge"
    with running_server(parts / "lm") as base_url:
        report = translate(
            english,
            to="zh",
            out=folder,
            sending=Sending("lm", base_url, CONCURRENCY),
            prompt="translate_plain",
            texts_per_request=TEXTS_PER_REQUEST,
        )
    chinese = read_examples(folder / "accepted.jsonl")
    write_records(out / "data" / "chinese.jsonl", chinese)
    log.logger.info("forge: %d of %d accepted", len(chinese), len(english))
    assert report.accepted == len(chinese)
    return _measure_forge(english, chinese)


def _measure_forge(english: list[Example], chinese: list[Example]) -> list[Metric]:
    """Measure how many records were accepted, and how many of those are wrong by the grammar's own parser."""
    texts = {e.id: "\n".join(message.content for message in e.messages) for e in [*english, *chinese]}
    pairs = [(texts[str(e.provenance.translated_from)], texts[e.id]) for e in chinese]
    wrong = [100.0 * (not dataset.same_meaning(source, target)) for source, target in pairs]
    accepted = [100.0] * len(chinese) + [0.0] * (len(english) - len(chinese))
    scope = Scope("forge", "train", "zh", "forge")
    return [scope.mean("accepted", accepted), scope.mean("wrong_among_accepted", wrong)]


def _train(out: Path, parts: Path, seed: int) -> list[dict[str, Any]]:
    """Run the three stages of the recipe: align, base and chat."""
    data = f"[{out / 'data' / 'english.jsonl'}, {out / 'data' / 'chinese.jsonl'}]"
    changes = [f"out={out / 'train'}", f"seed={seed}", f"data.path={data}"]
    changes += [f"model.vision={parts / 'vit'}", f"model.language_model={parts / 'lm'}"]
    run_recipe(load_recipe(RECIPE, changes))
    for stage, name in CHECKPOINTS.items():
        with atomic_dir(out / name) as folder:
            shutil.copytree(out / "train" / stage, folder, dirs_exist_ok=True)
    return list(read_json(out / "train" / "curve.json"))


def _evaluate(out: Path, suite: Suite, seed: int) -> list[Metric]:
    """Evaluate Base and Chat, beside the most frequent answer and Chat on a blank image."""
    metrics = majority(suite, out=out, seed=seed)
    for name, folder in CHECKPOINTS.items():
        model = ZiyaVisual.from_pretrained(out / folder)
        metrics += evaluate(model, suite, name=name, out=out, seed=seed)
        if name == "chat":
            metrics += evaluate(model, suite.blank(), name="blank", out=out, tasks=("vqa",), seed=seed)
    return metrics
