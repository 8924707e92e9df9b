"""The whole system in miniature, offline: the page to read first.

A world is drawn, its English is translated through the forge over HTTP by a tiny language model behind our
own server, a vision-language model is trained in three stages on both languages, and Base and Chat are
measured on new scenes and on shape-colour pairs that no picture ever showed. The same functions run at 14
B.
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
from ziya_visual.train.pretrain.shipped import SHIPPED, pretrain_parts, read_card
from ziya_visual.train.run import run_recipe

RECIPE = Path(__file__).parent / "recipes" / "quickstart.yaml"
IMAGES, QUESTIONS, DIALOGUES = 3000, 8, 600
TEXTS_PER_REQUEST, CONCURRENCY = 4, 160
CHECKPOINTS = {"base": "base", "chat": "checkpoint"}  # stage -> folder

# What the issue that asked for the miniature wants of it: floors gate CI, aims are where we want to be.
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
    """Draw, forge, train, measure, report; a killed run goes on where it was.

    Args:
        out: gets ``data/``, ``base/``, ``checkpoint/`` (Chat), ``results.json``, ``report.html``,
            and ``leaderboard/``, Base against Chat by the truth of the scenes.
        seed: of everything that is drawn or initialised.
        from_scratch: pre-train the tiny ViT and LM too, instead of taking the shipped ones.

    Returns:
        The content of ``results.json``.
    """
    seconds: dict[str, float] = {}
    with log.timed(seconds, "total"):
        parts = _parts(out, seed, seconds) if from_scratch else SHIPPED
        with log.timed(seconds, "draw"):
            english = _draw(out, seed)
        with log.timed(seconds, "forge"):
            forged = _forge(out, parts, english)
        with log.timed(seconds, "train"):
            curve = _train(out, parts, seed)
        with log.timed(seconds, "evaluate"):
            suite = build_scenes(seed)
            metrics = forged + _evaluate(out, suite, seed)
            judge_predictions(out / "predictions", ("base", "chat"), out=out / "judge")
            leaderboard([out / "judge"], out=out / "leaderboard", seed=seed)
    recorded = results(
        metrics,
        seconds=seconds,
        seed=seed,
        versions=_versions(),
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


def _parts(out: Path, seed: int, seconds: dict[str, float]) -> Path:
    """What a real user would download, made here."""
    with log.timed(seconds, "parts"):
        pretrain_parts(out / "parts", seed=seed)
    return out / "parts"


def _draw(out: Path, seed: int) -> list[Example]:
    """Pictures with English captions, questions and dialogues."""
    examples = dataset.write_training(
        out / "data", seed=seed, images=IMAGES, questions_per_image=QUESTIONS, dialogues=DIALOGUES
    )
    write_records(out / "data" / "english.jsonl", examples)
    return examples


def _forge(out: Path, parts: Path, english: list[Example]) -> list[Metric]:
    """The Chinese half: our server, its tiny LM, HTTP, ledger, checks; what is rejected is not trained on."""
    strangers = [
        m.content for e in english for m in e.messages if " " in m.content and not is_image_text(m.content)
    ]
    assert not strangers, f"in the LM's own text: {strangers[:3]}"
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
    """Accepted among all, and accepted but wrong by the grammar's own parser (used for this alone)."""
    sources = {example.id: example for example in english}
    wrong = [
        100.0 * (not dataset.same_meaning(_text(sources[str(e.provenance.translated_from)]), _text(e)))
        for e in chinese
    ]
    accepted = [100.0] * len(chinese) + [0.0] * (len(english) - len(chinese))
    scope = Scope("forge", "train", "zh", "forge")
    return [scope.mean("accepted", accepted), scope.mean("wrong_among_accepted", wrong)]


def _text(example: Example) -> str:
    return "\n".join(message.content for message in example.messages)


def _train(out: Path, parts: Path, seed: int) -> list[dict[str, Any]]:
    """Run the recipe: align, base, chat."""
    data = f"[{out / 'data' / 'english.jsonl'}, {out / 'data' / 'chinese.jsonl'}]"
    changes = [f"out={out / 'train'}", f"seed={seed}", f"data.path={data}"]
    changes += [f"model.vision={parts / 'vit'}", f"model.language_model={parts / 'lm'}"]
    run_recipe(load_recipe(RECIPE, changes))
    for stage, name in CHECKPOINTS.items():
        with atomic_dir(out / name) as aside:
            shutil.copytree(out / "train" / stage, aside, dirs_exist_ok=True)
    return list(read_json(out / "train" / "curve.json"))


def _evaluate(out: Path, suite: Suite, seed: int) -> list[Metric]:
    """Base and Chat, beside the most frequent answer and Chat on a blank picture."""
    metrics = majority(suite, out=out, seed=seed)
    for name, folder in CHECKPOINTS.items():
        model = ZiyaVisual.from_pretrained(out / folder)
        metrics += evaluate(model, suite, name=name, out=out, seed=seed)
        if name == "chat":
            metrics += evaluate(model, suite.blank(), name="blank", out=out, tasks=("vqa",), seed=seed)
    return metrics


def _versions() -> dict[str, str]:
    names = ("ziya-visual", "torch", "transformers", "peft", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
