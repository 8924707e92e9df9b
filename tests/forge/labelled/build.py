"""The labelled set: good English-Chinese pairs, and the same with faults injected, one kind at a time.

Two halves by the hash of the source: the checks were tuned on ``dev`` alone; ``held_out`` is what counts.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labelled.injectors import INJECTORS

OWN = Path(__file__).with_name("pairs.tsv")
TUNED_ON = Path(__file__).with_name("pairs_dev.tsv")  # two fresh sets, measured once and then looked at
HALVES = ("dev", "held_out")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """``kind`` is the injector's name, or ``clean``."""

    kind: str
    source: str
    target: str


def own_pairs(path: Path = OWN) -> list[Pair]:
    """Written for this project: news, description, dialogue, instructions, facts, stories, business."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(source, target) for source, target in rows]


def qa90_pairs(folder: Path) -> list[Pair]:
    """Captions, questions and answers of qa90, without answers that stop half-way: faults of the data."""

    def rows(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    pairs: list[Pair] = []
    captions = zip(
        rows("caps_boxes_coco2014_val_80.jsonl"), rows("caps_boxes_coco2014_val_80_zh.jsonl"), strict=True
    )
    for ours, theirs in captions:
        assert isinstance(ours["captions"], list)
        assert isinstance(theirs["captions"], list)
        pairs += zip(ours["captions"], theirs["captions"], strict=True)
    for stem in ("qa90_questions", "qa90_gpt4_answer"):
        for ours, theirs in zip(rows(f"{stem}.jsonl"), rows(f"{stem}_zh.jsonl"), strict=True):
            pairs.append((str(ours["text"]), str(theirs["text"])))
    return list(dict.fromkeys(pair for pair in pairs if not _cut(*pair)))


def _cut(source: str, target: str) -> bool:
    sentences = [
        len(re.findall(marks, text)) for marks, text in ((r"[.!?](?=\s|$)", source), ("[。！？]", target))
    ]
    return len(source.split()) > 30 and (
        sentences[1] < 0.7 * sentences[0] or not re.search("[。！？]$", target)
    )


def half(pairs: Sequence[Pair], name: str) -> list[Pair]:
    """The pairs of one half."""
    return [p for p in pairs if hashlib.sha1(p[0].encode()).digest()[0] % 2 == HALVES.index(name)]


def faulty(pairs: Sequence[Pair], *, seed: int, per_kind: int) -> list[Case]:
    """Up to ``per_kind`` cases of every injector."""
    cases = []
    targets = [target for _, target in pairs]
    for kind, inject in INJECTORS.items():
        rng = random.Random(f"{seed} {kind}")
        made = 0
        for source, target in rng.sample(list(pairs), len(pairs)):
            broken = inject(rng, source, target, targets) if made < per_kind else None
            if broken is not None and broken != target:
                cases.append(Case(kind, source, broken))
                made += 1
    return cases


def clean(pairs: Sequence[Pair]) -> list[Case]:
    """Every pair as it is."""
    return [Case("clean", source, target) for source, target in pairs]
