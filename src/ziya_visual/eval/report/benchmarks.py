"""The report's tables of published data sets: what was measured, the language gap, and published numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.core.files import read_text

Row = Mapping[str, Any]
_TASKS = {
    "vqa": "questions",
    "gqa": "questions",
    "caption": "captions",
    "retrieval": "retrieval, contrastive",
    "rerank": "retrieval, contrastive + matching",
}
_SHOWN = ("overall", "accuracy", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE", "cider", "keyword_f1")
_RECALLS = tuple(f"{way}_r{depth}" for way in ("i2t", "t2i") for depth in (1, 5, 10))
_LANGS = ("en", "zh")
_SHARES = ("Bleu", "METEOR", "ROUGE", "CIDEr", "SPICE", "cider")  # scores that are not percent


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: a system's scores, or the gap; ``cells`` are (value, interval), empty if unknown."""

    label: str
    cells: tuple[tuple[str, str], ...]
    note: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is known of one data set and task."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def tables(rows: Sequence[Row], *, model: str, apart: Collection[str] = ()) -> list[Benchmark]:
    """One table a data set and task.

    Args:
        rows: of ``results.json``.
        model: its name, for the lines.
        apart: splits that the report shows elsewhere.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["task"] in _TASKS and row["split"] not in apart:
            groups.setdefault((row["split"], row["task"]), []).append(row)
    return [_table(split, task, found, model) for (split, task), found in groups.items()]


def _table(split: str, task: str, rows: Sequence[Row], model: str) -> Benchmark:
    by_lang: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_lang.setdefault(row["lang"], {})[_column(row)] = row
    published = [one for one in anchors() if (one["split"], one["task"]) == (split, task)]
    names = [*map(_column, rows), *(name for one in published for name in one["columns"])]
    columns = tuple(name for name in dict.fromkeys(names) if _shown(name))
    lines = [
        Line(f"{model}, {lang}", tuple(_cell(found.get(name), name) for name in columns), ours=True)
        for lang, found in by_lang.items()
    ]
    if all(lang in by_lang for lang in _LANGS):
        english, chinese = (by_lang[lang] for lang in _LANGS)
        gaps = tuple(_gap(english.get(name), chinese.get(name), name) for name in columns)
        lines.append(Line("English less Chinese", gaps))
    for one in published:
        note = f"{one['lang']}; {one['setting']}; {one['source']}"
        for label, values in one["rows"].items():
            given = dict(zip(one["columns"], values, strict=True))
            cells = tuple((_digits(given[name], name) if name in given else "", "") for name in columns)
            lines.append(Line(label, cells, note))
    return Benchmark(f"{split}: {_TASKS[task]}", columns, tuple(lines))


def _column(row: Row) -> str:
    """The name without the cut of a language, which a Chinese caption's score carries."""
    name: str = row["name"]
    return name.partition(f"[{row['lang']}:")[0]


def _shown(name: str) -> bool:
    return name.partition("[")[0] in _SHOWN or name in _RECALLS or name.endswith("mean_recall")


def _cell(row: Row | None, name: str) -> tuple[str, str]:
    if row is None:
        return "", ""
    ends = f"{_digits(row['low'], name)}–{_digits(row['high'], name)}" if row["low"] < row["high"] else ""
    return _digits(row["value"], name), ends


def _gap(english: Row | None, chinese: Row | None, name: str) -> tuple[str, str]:
    """Nothing where one is unknown, or where the texts were cut by different rules."""
    if english is None or chinese is None or english["name"] != chinese["name"]:
        return "", ""
    return _digits(english["value"] - chinese["value"], name), ""


def _digits(value: float, name: str) -> str:
    """A caption's score, which is a share, with three digits, percent with two."""
    return f"{value:.3f}" if name.startswith(_SHARES) else f"{value:.2f}"


def anchors() -> list[dict[str, Any]]:
    """Published numbers of data sets (``anchors.yaml``); those of judges are the leaderboard's."""
    found: list[dict[str, Any]] = yaml.safe_load(read_text(Path(__file__).parent / "anchors.yaml"))
    return [table for table in found if "task" in table]
