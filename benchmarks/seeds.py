"""The table of several quickstart runs: worst, median and best of each number that has a floor or an aim.

python benchmarks/seeds.py runs/soak/0 runs/soak/1 runs/soak/2
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from ziya_visual.core.io import read_json

TYPES = ("color", "shape", "size", "count", "exist", "relation")
NUMBERS = (
    ("VQA", "chat", "vqa", "accuracy"),
    ("VQA of Base", "base", "vqa", "accuracy"),
    ("R@1 picture → caption", "chat", "retrieval", "i2t_r1"),
    ("R@1 caption → picture", "chat", "retrieval", "t2i_r1"),
    ("caption keyword F1", "chat", "caption", "keyword_f1"),
)
ROWS = [
    (f"{name}, {split}, {lang}", (model, split, lang, task, metric))
    for name, model, task, metric in NUMBERS
    for split in ("new", "unseen")
    for lang in ("en", "zh")
] + [
    (f"forge: {name}", ("forge", "train", "zh", "forge", name))
    for name in ("accepted", "wrong_among_accepted")
]


def values(run: Path) -> tuple[dict[tuple[str, ...], float], dict[str, float]]:
    content: dict[str, Any] = read_json(run / "results.json")
    fields = ("model", "split", "lang", "task", "name")
    return {tuple(row[f] for f in fields): row["value"] for row in content["metrics"]}, content["seconds"]


def above_blind(found: dict[tuple[str, ...], float], split: str, lang: str, kind: str) -> float:
    chat, *blind = (found[m, split, lang, "vqa", f"type:{kind}"] for m in ("chat", "majority", "blank"))
    return chat - max(blind)


def line(name: str, numbers: list[float]) -> str:
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    return f"| {name} | {low:.1f} | {middle:.1f} | {high:.1f} |"


def main() -> None:
    runs = [values(Path(name)) for name in sys.argv[1:]]
    print(f"| {len(runs)} runs | lowest | median | highest |\n|---|---|---|---|")
    for name, key in ROWS:
        print(line(name, [found[key] for found, _ in runs]))
    for split in ("new", "unseen"):
        gaps = [
            abs(found["chat", split, "en", "vqa", "accuracy"] - found["chat", split, "zh", "vqa", "accuracy"])
            for found, _ in runs
        ]
        print(line(f"{split}: gap between the languages", gaps))
        for lang in ("en", "zh"):
            for kind in TYPES:
                margins = [above_blind(found, split, lang, kind) for found, _ in runs]
                print(line(f"{lang} {split}: {kind}, points above blind", margins))
    for part in ("total", "train", "forge", "evaluate"):
        print(line(f"minutes: {part}", [seconds[part] / 60 for _, seconds in runs]))


if __name__ == "__main__":
    main()
