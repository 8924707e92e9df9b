"""What each part of the method brings: the quickstart with one thing changed, on held-out scenes.

    python benchmarks/ablations.py [--seeds 0 1] [--steps 0.5] [--jobs 2]     writes runs/ablations/table.md

For each seed the quickstart is run for its data; the method and every variant of it then train from the same
parts on the same pictures, for as many steps in all (``--steps`` says what share of the quickstart's), and
their last stage is measured as Chat is. A job has one thread. What is done already is not done again.
"""

import argparse
import copy
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml

from ziya_visual.core.files import read_examples, read_json, write_json, write_records, write_text
from ziya_visual.core.recipe import load_recipe
from ziya_visual.core.records import Example, Message
from ziya_visual.eval.run import evaluate
from ziya_visual.eval.suites import build_scenes
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.quickstart import RECIPE, quickstart
from ziya_visual.scenes.language import QUESTION_TYPES, TRAIN_PHRASINGS, Language
from ziya_visual.scenes.parsing import parse
from ziya_visual.train import run
from ziya_visual.train.batches import Batches
from ziya_visual.train.pretrain import SHIPPED
from ziya_visual.train.run import run_recipe

OUT = Path("runs/ablations")
QUICKSTART, WHOLE = "quickstart", "the whole method"
COLUMNS = {
    "VQA new": (("new", "vqa", "accuracy"),),
    "VQA unseen": (("unseen", "vqa", "accuracy"),),
    "caption F1 new": (("new", "caption", "keyword_f1"),),
    "R@1 new": (("new", "retrieval", "i2t_r1"), ("new", "retrieval", "t2i_r1")),
    "R@1 unseen": (("unseen", "retrieval", "i2t_r1"), ("unseen", "retrieval", "t2i_r1")),
}
Stages = list[dict[str, Any]]


def without_align(stages: Stages) -> Stages:
    align, base, chat = stages
    return [{**base, "steps": align["steps"] + base["steps"]}, chat]


def without_lora(stages: Stages) -> Stages:
    return [{**stage, "trains": [part for part in stage["trains"] if part != "lora"]} for stage in stages]


def one_stage(stages: Stages) -> Stages:
    """Merge the stages into one that has all losses, tasks and parts from the first step."""
    align, base, chat = stages
    merged = {**base, "name": chat["name"], "steps": sum(stage["steps"] for stage in stages)}
    merged["tasks"] = base["tasks"] | {"dialogue": chat["tasks"]["dialogue"]}
    return [merged | {"objectives": align["objectives"] | base["objectives"]}]


def as_they_are(stages: Stages) -> Stages:
    return stages


VARIANTS: dict[str, Callable[[Stages], Stages]] = {
    WHOLE: as_they_are,
    "without stage 1": without_align,
    "without LoRA": without_lora,
    "without instruction templates": as_they_are,
    "one stage instead of three": one_stage,
    "English data only": as_they_are,
    "Chinese by the grammar, not the forge": as_they_are,
}


class PlainBatches(Batches):
    """Batches of the records as they are; a class, because another process draws them."""

    def _phrase(self, example: Example, seed: int) -> Example:
        return example


def folder_of(seed: int, variant: str) -> Path:
    return OUT / str(seed) / variant.replace(" ", "-").replace(",", "")


def make_data(seed: int) -> None:
    folder = folder_of(seed, QUICKSTART)
    if not (folder / "results.json").is_file():
        torch.set_num_threads(1)
        quickstart(folder, seed=seed)


def run_variant(seed: int, variant: str, share: float) -> None:
    """Train and evaluate a variant, unless its results exist."""
    folder = folder_of(seed, variant)
    if (folder / "results.json").is_file():
        return
    torch.set_num_threads(1)
    if variant == "without instruction templates":
        run.Batches = PlainBatches  # type: ignore[misc, attr-defined]
    recipe = copy.deepcopy(yaml.safe_load(RECIPE.read_text()))
    shorter = [stage | {"steps": round(share * stage["steps"])} for stage in recipe["stages"]]
    recipe |= {"stages": VARIANTS[variant](shorter), "out": str(folder / "train"), "seed": seed}
    recipe["data"] = {"path": [str(path) for path in data_of(seed, variant)]}
    recipe["model"] |= {"vision": str(SHIPPED / "vit"), "language_model": str(SHIPPED / "lm")}
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe))
    last = run_recipe(load_recipe(folder / "recipe.yaml"))
    metrics = evaluate(
        ZiyaVisual.from_pretrained(last), build_scenes(seed), name="chat", out=folder, seed=seed
    )
    write_json(folder / "results.json", {"metrics": [asdict(metric) for metric in metrics]})


def data_of(seed: int, variant: str) -> Iterable[Path]:
    """Return the data files of a variant: the quickstart's own, or with new Chinese records."""
    drawn = folder_of(seed, QUICKSTART) / "data"
    english, chinese = drawn / "english.jsonl", drawn / "chinese.jsonl"
    if variant == "English data only":
        return [english]
    if variant.startswith("Chinese by the grammar"):
        right = folder_of(seed, variant) / "chinese.jsonl"
        write_records(right, [by_grammar(example) for example in read_examples(english)])
        return [english, right]
    return [english, chinese]


def by_grammar(example: Example) -> Example:
    """Return the Chinese record that a flawless translator would write."""
    turns = tuple(Message(turn.role, translated(turn.content)) for turn in example.messages)
    answers = tuple(translated(answer) for answer in example.answers)
    return example.with_messages(turns, id=f"{example.id}-zh", lang="zh", answers=answers)


def translated(text: str) -> str:
    english, chinese = Language.load("en"), Language.load("zh")
    meaning = parse(text, "en")
    assert meaning is not None, text
    if meaning.task in QUESTION_TYPES and not meaning.things:
        return chinese.answer(meaning.task, str(meaning.value))
    if meaning.value is not None:
        return chinese.reply(meaning)
    phrasing = next(n for n in TRAIN_PHRASINGS if english.say(meaning, n).lower() == text.lower())
    return chinese.say(meaning, phrasing)


def table(seeds: list[int]) -> str:
    """Return the means over the seeds, English / Chinese, and half the range between the seeds."""
    lines = [f"| what | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for variant in VARIANTS:
        runs = [values(read_json(folder_of(seed, variant) / "results.json")["metrics"]) for seed in seeds]
        cells = (cell(runs, names) for names in COLUMNS.values())
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def values(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], float]:
    fields = ("split", "lang", "task", "name")
    return {tuple(row[f] for f in fields): row["value"] for row in rows if row["model"] == "chat"}


def cell(runs: list[dict[tuple[str, ...], float]], names: tuple[tuple[str, str, str], ...]) -> str:
    texts = []
    for lang in ("en", "zh"):
        means = [statistics.mean(run[split, lang, task, name] for split, task, name in names) for run in runs]
        texts.append(f"{statistics.mean(means):.1f} ± {(max(means) - min(means)) / 2:.1f}")
    return " / ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=float, default=0.5)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # also of the server that a job's forge asks
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        list(pool.map(make_data, chosen.seeds))
        todo = [(seed, variant, chosen.steps) for variant in VARIANTS for seed in chosen.seeds]
        list(pool.map(run_variant, *zip(*todo, strict=True)))
    write_text(OUT / "table.md", table(chosen.seeds))
    print(table(chosen.seeds))


if __name__ == "__main__":
    main()
