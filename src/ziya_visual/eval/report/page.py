"""``report.html``: one file that opens anywhere, offline, on a phone, and shows what was measured and how."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from ziya_visual.core.files import write_text
from ziya_visual.eval.report.benchmarks import tables
from ziya_visual.eval.report.charts import COLORS, line_chart

if TYPE_CHECKING:
    from PIL.Image import Image

LANGUAGES = {"en": "English", "zh": "中文", "es": "Español"}  # shown in this order, others by their tags
SPLITS = {"new": "new scenes", "unseen": "unseen combinations"}
MODELS = {"base": "Base", "chat": "Chat", "majority": "Majority", "blank": "Blank"}
BLIND = ("majority", "blank")
HEADLINE = (
    ("vqa", "accuracy", "Questions", "mean of the question types, %"),
    ("retrieval", "i2t_r1", "Picture → caption", "recall at 1, %"),
    ("retrieval", "t2i_r1", "Caption → picture", "recall at 1, %"),
    ("caption", "keyword_f1", "Captions: keyword F1", "%"),
    ("caption", "cider", "Captions: CIDEr", "as coco-caption gives it"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a number of Chat should reach on a split: the floor that gates CI, and the aim."""

    task: str
    name: str
    split: str
    floor: float
    aim: float


@dataclass(frozen=True)
class Sample:
    """A picture of the contact sheet, with what was asked, answered, and true."""

    image: Image
    lang: str
    split: str
    task: str
    question: str
    answer: str
    truth: str
    right: bool


def write_report(
    out: Path,
    results: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]],
    samples: Sequence[Sample],
    *,
    targets: Sequence[Target] = (),
) -> Path:
    """Write ``out/report.html`` and return its path.

    Args:
        out: the folder of the run.
        results: the content of ``results.json``; of its card title, command, the model's name, what was not
            measured and what failed are shown where given.
        curves: learning curves, rows of ``stage``, ``step``, ``name``, ``value``.
        samples: right and wrong answers for the contact sheet.
        targets: floors and aims, shown beside Chat's numbers.
    """
    table = Table(results["metrics"], targets)
    card = results.get("card", {})
    chat = card.get("model", MODELS["chat"])
    page = _environment().get_template("report.html.jinja")
    path = out / "report.html"
    write_text(
        path,
        page.render(
            results=results,
            card=card,
            table=table,
            languages={lang: LANGUAGES.get(lang, lang) for lang in table.langs},
            splits={split: name for split, name in SPLITS.items() if split in table.splits},
            models={**MODELS, "chat": chat},
            benchmarks=tables(results["metrics"], model=chat, apart=(*SPLITS, "train")),
            headline=HEADLINE,
            charts=_charts(curves),
            line_colors=COLORS,
            sheets=_sheets(samples),
        ),
    )
    return path


class Table:
    """The metric rows, looked up by what they are about."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> None:
        self.rows = {self._key(row): row for row in rows}
        self.targets = {(target.task, target.name, target.split): target for target in targets}
        found = {row["lang"] for row in rows}
        self.langs = [lang for lang in LANGUAGES if lang in found] + sorted(found - LANGUAGES.keys())
        self.splits = {row["split"] for row in rows}
        self.types = list(dict.fromkeys(r["name"] for r in rows if r["name"].startswith("type:")))
        self.forge = [row for row in rows if row["model"] == "forge"]

    @staticmethod
    def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[field]) for field in ("model", "split", "lang", "task", "name"))

    def get(self, model: str, split: str, lang: str, task: str, name: str) -> Mapping[str, Any] | None:
        """The row, if it was measured."""
        return self.rows.get((model, split, lang, task, name))

    def target(self, task: str, name: str, split: str) -> Target | None:
        """Floor and aim, if any are set."""
        return self.targets.get((task, name, split))

    def status(self, row: Mapping[str, Any], target: Target | None) -> str:
        """``aim``, ``floor`` or ``below``; empty without a target."""
        if target is None:
            return ""
        return "aim" if row["value"] >= target.aim else "floor" if row["value"] >= target.floor else "below"

    def measured(self, task: str, name: str) -> bool:
        """Whether any model has this number on scenes; benchmarks have tables of their own."""
        return any(key[1] in SPLITS and key[3:] == (task, name) for key in self.rows)

    def blind(self, split: str, lang: str, name: str) -> Mapping[str, Any] | None:
        """The better of the two baselines that do not look."""
        found = [row for model in BLIND if (row := self.get(model, split, lang, "vqa", name))]
        return max(found, key=lambda row: float(row["value"]), default=None)

    def gaps(self) -> list[tuple[str, float]]:
        """(split, how far apart Chat's best and worst VQA accuracies are among the languages)."""
        found = []
        for split in SPLITS:
            rows = [self.get("chat", split, lang, "vqa", "accuracy") for lang in self.langs]
            values = [float(row["value"]) for row in rows if row]
            if len(values) > 1:
                found.append((split, max(values) - min(values)))
        return found


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["duration"] = duration
    environment.filters["amount"] = amount
    return environment


def duration(seconds: float) -> str:
    """``85`` -> ``1 min 25 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def amount(value: float, name: str) -> str:
    """A number in the digits that it deserves: percent with one, CIDEr with two."""
    return f"{value:.2f}" if name == "cider" else f"{value:.1f}"


def _charts(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One chart a stage, its losses as lines."""
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


def _sheets(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The contact sheet by language, wrong answers first: they say more."""
    sheets = []
    for lang in dict.fromkeys(sample.lang for sample in samples):
        mine = sorted((sample for sample in samples if sample.lang == lang), key=lambda sample: sample.right)
        cards = [{"sample": sample, "src": data_uri(sample.image)} for sample in mine]
        wrong = sum(not sample.right for sample in mine)
        sheets.append({"lang": lang, "name": LANGUAGES.get(lang, lang), "cards": cards, "wrong": wrong})
    return sheets


def data_uri(image: Image) -> str:
    """The picture as PNG in a ``data:`` address."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
