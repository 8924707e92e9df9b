"""What the checks find in the held-out half of the labelled set, for ``benchmarks/forge.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelled import build

from ziya_visual.forge.checks.any_pair import check


def labelled(qa90: Path | None) -> dict[str, Any]:
    """The held-out half of the labelled set."""
    pairs = build.half(build.own_pairs(), "held_out")
    if qa90 is not None:
        pairs += build.half(build.qa90_pairs(qa90), "held_out")
    faulty, clean = build.faulty(pairs, seed=0, per_kind=60), build.clean(pairs)

    def flagged(cases: list[build.Case]) -> int:
        return sum(bool(check(c.source, c.target, source_lang="en", target_lang="zh")) for c in cases)

    kinds = {kind: [c for c in faulty if c.kind == kind] for kind in dict.fromkeys(c.kind for c in faulty)}
    return {
        "fault_recall": 100 * flagged(faulty) / len(faulty),
        "false_alarm": 100 * flagged(clean) / len(clean),
        "clean": len(clean),
        "faulty": len(faulty),
        "recall_by_kind": {
            kind: round(100 * flagged(cases) / len(cases), 1) for kind, cases in kinds.items()
        },
    }
