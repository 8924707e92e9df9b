"""The table of several quickstart runs: lowest / median / highest of each number that has a floor.

python benchmarks/seeds.py runs/soak/0 runs/soak/1 runs/soak/2
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from ziya_visual.core.files import read_json
from ziya_visual.quickstart import TARGETS

TYPES = ("color", "shape", "size", "count", "exist", "relation")
NAMES = {
    "accuracy": "VQA",
    "i2t_r1": "R@1 picture → caption",
    "t2i_r1": "R@1 caption → picture",
    "keyword_f1": "caption keyword F1",
}
FORGE = (
    ("forged Chinese accepted", "accepted", ">= 80"),
    ("accepted but wrong", "wrong_among_accepted", "<= 1"),
)
LANGS, SPLITS = ("en", "zh"), ("new", "unseen")
BLIND = 10  # points: the floor of every type above the better blind baseline


class Run:
    """The numbers of one run by model, split, language, task and name, and its seconds."""

    def __init__(self, folder: Path) -> None:
        content: dict[str, Any] = read_json(folder / "results.json")
        fields = ("model", "split", "lang", "task", "name")
        self.values = {tuple(row[f] for f in fields): row["value"] for row in content["metrics"]}
        self.seconds: dict[str, float] = content["seconds"]

    def above_blind(self, split: str, lang: str, kind: str) -> float:
        models = ("chat", "majority", "blank")
        chat, *blind = (self.values[m, split, lang, "vqa", f"type:{kind}"] for m in models)
        return float(chat - max(blind))

    def gap(self, split: str) -> float:
        english, chinese = (self.values["chat", split, lang, "vqa", "accuracy"] for lang in ("en", "zh"))
        return float(abs(english - chinese))


def spread(numbers: list[float]) -> str:
    """Format the minimum, median and maximum."""
    return " / ".join(f"{value:.1f}" for value in (min(numbers), statistics.median(numbers), max(numbers)))


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def by_language(runs: list[Run]) -> list[str]:
    rows = []
    for of in TARGETS:
        numbers_by_lang = [
            [run.values["chat", of.split, lang, of.task, of.name] for run in runs] for lang in LANGS
        ]
        rows.append(row(f"{NAMES[of.name]}, {of.split}", f">= {of.floor:g}", *map(spread, numbers_by_lang)))
    for split in SPLITS:
        for kind in TYPES:
            numbers_by_lang = [[run.above_blind(split, lang, kind) for run in runs] for lang in LANGS]
            rows.append(row(f"{kind} above blind, {split}", f">= {BLIND}", *map(spread, numbers_by_lang)))
    return rows


def of_the_run(runs: list[Run]) -> list[str]:
    rows = [
        row(f"gap between the languages, {split}", "<= 3", spread([run.gap(split) for run in runs]))
        for split in SPLITS
    ]
    for label, name, floor in FORGE:
        numbers = [run.values["forge", "train", "zh", "forge", name] for run in runs]
        rows.append(row(label, floor, spread(numbers)))
    for part, floor in (("total", "<= 12"), ("train", "<= 10")):
        rows.append(row(f"minutes, {part}", floor, spread([run.seconds[part] / 60 for run in runs])))
    return rows


def main() -> None:
    runs = [Run(Path(name)) for name in sys.argv[1:]]
    print(row("what", "floor", "English", "Chinese"), "|---|---|---|---|", *by_language(runs), sep="\n")
    print()
    print(row("what", "floor", "reached"), "|---|---|---|", *of_the_run(runs), sep="\n")


if __name__ == "__main__":
    main()
