"""``report.html``: one file that opens offline on any device, with charts as inline SVG and no scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from PIL.Image import Image

from ziya_visual.core.files import write_text
from ziya_visual.core.pictures import data_uri
from ziya_visual.eval.results import page_template, published_results

Row = Mapping[str, Any]  # a row of results.json
Point = tuple[float, float]
Cell = tuple[str, str]  # value and interval as text; empty if unknown

WIDTH, HEIGHT = 420, 220
COLORS = 5
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 30
_MAX_POINTS = 240
PUBLISHED = Path(__file__).parent / "published.yaml"  # numbers of datasets
LANGUAGES = {"en": "English", "zh": "中文", "es": "Español"}  # in display order; others show their tags
SPLITS = {"new": "new scenes", "unseen": "unseen combinations"}
MODELS = {"base": "Base", "chat": "Chat", "majority": "Majority", "blank": "Blank"}
BLIND = ("majority", "blank")
HEADLINE = (
    ("vqa", "accuracy", "Questions", "mean of the question types, %"),
    ("retrieval", "i2t_r1", "Picture → caption", "recall at 1, %"),
    ("retrieval", "t2i_r1", "Caption → picture", "recall at 1, %"),
    ("caption", "keyword_f1", "Captions: keyword F1", "%"),
    ("caption", "cider", "Captions: CIDEr", "as coco-caption reports it"),
)
_TASKS = {
    "vqa": "questions",
    "gqa": "questions",
    "caption": "captions",
    "retrieval": "retrieval, contrastive",
    "rerank": "retrieval, contrastive + matching",
}
_CAPTION_SCORES = ("Bleu", "METEOR", "ROUGE", "CIDEr", "SPICE", "cider")  # not in percent
_COLUMNS = ("overall", "accuracy", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE", "cider", "keyword_f1")
_RECALLS = tuple(f"{way}_r{depth}" for way in ("i2t", "t2i") for depth in (1, 5, 10))


class Target(NamedTuple):
    """Thresholds for one of Chat's numbers on a split: the floor that gates CI, and the aim."""

    task: str
    name: str
    split: str
    floor: float
    aim: float


class Sample(NamedTuple):
    """An image of the report with its question, the model's answer and the reference."""

    image: Image
    lang: str
    split: str
    task: str
    question: str
    answer: str
    truth: str
    right: bool


class Line(NamedTuple):
    """One line of a benchmark table: the scores of a system, or the gap between languages."""

    label: str
    cells: tuple[Cell, ...]
    note: str = ""
    ours: bool = False


class Benchmark(NamedTuple):
    """The table of one dataset and task."""

    title: str
    columns: tuple[str, ...]
    lines: list[Line]


def write_report(
    out: Path,
    results: Mapping[str, Any],
    curves: Sequence[Row],
    samples: Sequence[Sample],
    *,
    targets: Sequence[Target] = (),
) -> Path:
    """Write ``out/report.html`` and return its path.

    Args:
        out: output folder of the run.
        results: content of ``results.json``; its optional ``card`` may hold the title, the command, the model
            name, and what was not measured or failed.
        curves: learning curves as rows of ``stage``, ``step``, ``name`` and ``value``.
        samples: right and wrong answers to show.
        targets: floors and aims to show beside Chat's numbers.
    """
    filters: dict[str, Callable[..., str]] = {"duration": format_duration, "amount": format_amount}
    table = ResultTable(results["metrics"], targets)
    card = results.get("card", {})
    chat = card.get("model", MODELS["chat"])
    page = page_template(Path(__file__).parent / "report.html.jinja", **filters).render(
        results=results,
        card=card,
        table=table,
        languages={lang: LANGUAGES.get(lang, lang) for lang in table.langs},
        splits={split: name for split, name in SPLITS.items() if split in table.splits},
        models={**MODELS, "chat": chat},
        benchmarks=benchmark_tables(results["metrics"], model=chat, skip_splits=(*SPLITS, "train")),
        headline=HEADLINE,
        charts=_charts(curves),
        line_colors=COLORS,
        sample_groups=_sample_groups(samples),
    )
    write_text(out / "report.html", page)
    return out / "report.html"


class ResultTable:
    """Look-up of metric rows by model, split, language, task and name."""

    def __init__(self, rows: Sequence[Row], targets: Sequence[Target]) -> None:
        fields = ("model", "split", "lang", "task", "name")
        self.rows = {tuple(str(row[field]) for field in fields): row for row in rows}
        self.targets = {(target.task, target.name, target.split): target for target in targets}
        langs = {row["lang"] for row in rows}
        self.langs = [lang for lang in LANGUAGES if lang in langs] + sorted(langs - LANGUAGES.keys())
        self.splits = {row["split"] for row in rows}
        self.types = list(dict.fromkeys(row["name"] for row in rows if row["name"].startswith("type:")))
        self.forge = [row for row in rows if row["model"] == "forge"]

    def get(self, *key: str) -> Row | None:
        """Return the row of (model, split, language, task, name), or ``None`` if it was not measured."""
        return self.rows.get(key)

    def status(self, row: Row, target: Target | None) -> str:
        """Return ``aim``, ``floor`` or ``below``; empty without a target."""
        if target is None:
            return ""
        return "aim" if row["value"] >= target.aim else "floor" if row["value"] >= target.floor else "below"

    def measured(self, task: str, name: str) -> bool:
        """Return whether any model has this number on scenes; benchmarks have their own tables."""
        return any(key[1] in SPLITS and key[3:] == (task, name) for key in self.rows)

    def blind(self, split: str, lang: str, name: str) -> Row | None:
        """Return the row of the better baseline that ignores the picture."""
        rows = [row for model in BLIND if (row := self.get(model, split, lang, "vqa", name))]
        return max(rows, key=lambda row: float(row["value"]), default=None)

    def gaps(self) -> list[tuple[str, float]]:
        """Return (split, difference between Chat's best and worst VQA accuracy among the languages)."""
        gaps = []
        for split in SPLITS:
            rows = [self.get("chat", split, lang, "vqa", "accuracy") for lang in self.langs]
            values = [float(row["value"]) for row in rows if row]
            if len(values) > 1:
                gaps.append((split, max(values) - min(values)))
        return gaps


def benchmark_tables(
    rows: Sequence[Row], *, model: str, skip_splits: Collection[str] = ()
) -> list[Benchmark]:
    """Return a table of our and published numbers for each dataset and task outside ``skip_splits``."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["task"] in _TASKS and row["split"] not in skip_splits:
            groups.setdefault((row["split"], row["task"]), []).append(row)
    return [_benchmark(split, task, group, model) for (split, task), group in groups.items()]


def _benchmark(split: str, task: str, rows: Sequence[Row], model: str) -> Benchmark:
    by_lang: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_lang.setdefault(row["lang"], {})[_column(row)] = row
    published = [t for t in published_results(PUBLISHED) if (t["split"], t["task"]) == (split, task)]
    names = [*map(_column, rows), *(name for table in published for name in table["columns"])]
    columns = tuple(
        name
        for name in dict.fromkeys(names)
        if name.partition("[")[0] in _COLUMNS or name in _RECALLS or name.endswith("mean_recall")
    )
    lines = [
        Line(f"{model}, {lang}", tuple(_cell(scores.get(name), name) for name in columns), ours=True)
        for lang, scores in by_lang.items()
    ]
    if "en" in by_lang and "zh" in by_lang:
        gaps = tuple(_gap(by_lang["en"].get(name), by_lang["zh"].get(name), name) for name in columns)
        lines.append(Line("English minus Chinese", gaps))
    for table in published:
        note = f"{table['lang']}; {table['setting']}; {table['source']}"
        for label, values in table["rows"].items():
            scores = dict(zip(table["columns"], values, strict=True))
            cells = tuple((_score(scores[name], name) if name in scores else "", "") for name in columns)
            lines.append(Line(label, cells, note))
    return Benchmark(f"{split}: {_TASKS[task]}", columns, lines)


def _column(row: Row) -> str:
    """Return the score name without the segmenter suffix that scores of other languages carry."""
    name: str = row["name"]
    return name.partition(f"[{row['lang']}:")[0]


def _cell(row: Row | None, name: str) -> Cell:
    if row is None:
        return "", ""
    bounds = f"{_score(row['low'], name)}–{_score(row['high'], name)}" if row["low"] < row["high"] else ""
    return _score(row["value"], name), bounds


def _gap(english: Row | None, chinese: Row | None, name: str) -> Cell:
    """Return the gap; empty if a number is missing or the texts were tokenized by different rules."""
    if english is None or chinese is None or english["name"] != chinese["name"]:
        return "", ""
    return _score(english["value"] - chinese["value"], name), ""


def _score(value: float, name: str) -> str:
    """Format a caption score with three decimals and percent with two."""
    return f"{value:.3f}" if name.startswith(_CAPTION_SCORES) else f"{value:.2f}"


def format_duration(seconds: float) -> str:
    """Format ``85`` as ``1 min 25 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def format_amount(value: float, name: str) -> str:
    """Format percent with one decimal and CIDEr with two."""
    return f"{value:.2f}" if name == "cider" else f"{value:.1f}"


def _charts(curves: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one chart for each stage, with its losses as lines."""
    stages: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in curves:
        line = stages.setdefault(str(row["stage"]), {}).setdefault(str(row["name"]), [])
        line.append((float(row["step"]), float(row["value"])))
    charts = []
    for stage, series in stages.items():
        for line in series.values():
            line.sort()
        svg = line_chart(series, label=f"Learning curves of stage {stage}: {', '.join(series)}")
        charts.append({"stage": stage, "names": list(series), "svg": svg})
    return charts


def _sample_groups(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Group the samples by language, wrong answers first because they tell more."""
    groups = []
    for lang in dict.fromkeys(sample.lang for sample in samples):
        members = sorted((sample for sample in samples if sample.lang == lang), key=lambda s: s.right)
        cards = [{"sample": s, "src": data_uri(s.image.convert("RGB"), optimize=True)} for s in members]
        wrong = sum(not sample.right for sample in members)
        groups.append({"lang": lang, "name": LANGUAGES.get(lang, lang), "cards": cards, "wrong": wrong})
    return groups


def line_chart(series: Mapping[str, Sequence[Point]], *, label: str, x_label: str = "step") -> Markup:
    """Return an SVG with one line for each series (name -> points with increasing x), in the order given.

    Colours are the CSS classes ``line-0`` to ``line-4``, then the same classes dashed (``again``). Screen
    readers read ``label``.
    """
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points:
        return Markup("")
    x_ticks, y_ticks = (ticks([point[axis] for point in points]) for axis in (0, 1))
    elements = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" class="chart">',
        *_grid(x_ticks, y_ticks),
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 2}" class="axis mid">',
        f"{escape(x_label)}</text>",
    ]
    for index, (name, line) in enumerate(series.items()):
        finite = thin([point for point in line if math.isfinite(point[1])])
        path = " ".join(f"{_x(x, x_ticks):.1f},{_y(y, y_ticks):.1f}" for x, y in finite)
        style = f"line line-{index % COLORS}" + " again" * (index >= COLORS)
        elements.append(f'<polyline points="{path}" class="{style}"><title>{escape(name)}</title></polyline>')
    return Markup("".join([*elements, "</svg>"]))


def ticks(values: Sequence[float], *, wanted: int = 4) -> list[float]:
    """Return round numbers that span the values in about ``wanted`` steps.

    >>> ticks([0.1, 3.7])
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / wanted))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= span / wanted * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * i, 10) for i in range(first, last + 1)]


def thin(line: Sequence[Point]) -> list[Point]:
    """Reduce a line to at most 240 points by averaging neighbours; return short lines unchanged."""
    size = math.ceil(len(line) / _MAX_POINTS)
    if size <= 1:
        return list(line)
    groups = [line[start : start + size] for start in range(0, len(line), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    elements = []
    for tick in y_ticks:
        y = _y(tick, y_ticks)
        elements.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        elements.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="axis end">{tick:g}</text>')
    for tick in x_ticks:
        x = _x(tick, x_ticks)
        elements.append(f'<text x="{x:.1f}" y="{HEIGHT - 15}" class="axis mid">{tick:g}</text>')
    return elements


def _x(value: float, scale: Sequence[float]) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT - 8) * (value - scale[0]) / (scale[-1] - scale[0])


def _y(value: float, scale: Sequence[float]) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - scale[0]) / (scale[-1] - scale[0])
