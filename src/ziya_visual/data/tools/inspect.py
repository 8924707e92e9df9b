"""``data inspect`` and ``data stats``: an HTML page of images with their texts, and a dataset's counts."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import write_text
from ziya_visual.core.pictures import data_uri, open_picture
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.formats import Reject

SIDE = 224  # pixels of a thumbnail's longer side
TOP_ANSWERS = 10


def write_page(path: Path, out: Path, *, count: int = 200, seed: int = 0) -> int:
    """Write a self-contained HTML page of ``count`` random images with their texts; return their number.

    A dialogue without an image counts as one. Images and rows that cannot be read are shown as their reason.
    """
    cards, rejects, total = _sample(path, count, random.Random(seed))
    values = {
        field: sorted({getattr(text, field) for card in cards for text in card})
        for field in ("task", "lang", "source")
    }
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("inspect.html.jinja").render(
        name=path.name, cards=[_card(card) for card in cards], values=values, rejects=rejects, total=total
    )
    write_text(out, page)
    return len(cards)


def _sample(path: Path, count: int, rng: random.Random) -> tuple[list[list[Example]], list[Reject], int]:
    """Sample the texts of ``count`` images (Vitter's algorithm R); return rejects and image count too."""
    chosen: dict[str, list[Example]] = {}
    seen: set[str] = set()
    rejects: list[Reject] = []
    for number, row in enumerate(iter_records(path)):
        if isinstance(row, Reject):
            rejects += [row] if len(rejects) < count else []
            continue
        key = row.image_id or f"{row.id}#{number}"
        if key in chosen:
            chosen[key].append(row)
        elif key not in seen:
            seen.add(key)
            if len(chosen) >= count:
                if rng.randrange(len(seen)) >= count:
                    continue
                del chosen[rng.choice(list(chosen))]
            chosen[key] = [row]
    return list(chosen.values()), rejects, len(seen)


def _card(texts: list[Example]) -> dict[str, Any]:
    first = texts[0]
    picture, problem = None, ""
    if first.image is not None:
        try:
            picture = _thumbnail(open_picture(first), texts)
        except DataError as error:
            problem = str(error)
    return {"picture": picture, "problem": problem, "name": first.image_id or first.id, "texts": texts}


def _thumbnail(picture: Image.Image, texts: list[Example]) -> dict[str, Any]:
    """Return a data URI, and the boxes of the texts in percent of width and height."""
    width, height = picture.size
    boxes = []
    for box in (box for text in texts for box in text.boxes):
        x0, y0, x1, y1 = (100 * value / side for value, side in zip(box.xyxy, picture.size * 2, strict=True))
        style = f"left:{x0:.2f}%;top:{y0:.2f}%;width:{x1 - x0:.2f}%;height:{y1 - y0:.2f}%"
        boxes.append({"label": box.label, "style": style})
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    return {"url": data_uri(picture, "JPEG", quality=80), "boxes": boxes, "size": f"{width} x {height}"}


def dataset_stats(path: Path) -> dict[str, Any]:
    """Count the readable records and summarize their lengths; images are not decoded."""
    by: dict[str, Counter[str]] = {
        name: Counter() for name in ("by_task_and_lang", "by_source", "by_split", "by_origin")
    }
    pictures: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    lengths: dict[str, list[int]] = {"user": [], "assistant": []}
    turns: list[int] = []
    without = boxes = rejects = 0
    for example in iter_records(path):
        if isinstance(example, Reject):
            rejects += 1
            continue
        by["by_task_and_lang"][f"{example.task}/{example.lang}"] += 1
        by["by_source"][example.source] += 1
        by["by_split"][example.meta.get("split", "")] += 1
        by["by_origin"][example.provenance.origin] += 1
        if example.image_id is None:
            without += 1
        else:
            pictures[example.image_id] += 1
        turns.append(len(example.messages))
        boxes += len(example.boxes)
        for turn in example.messages:
            if turn.role in lengths:
                lengths[turn.role].append(len(turn.content))
        if example.task == "vqa":
            answers.update(example.answers[:1])
    return {
        "records": len(turns),
        "pictures": len(pictures),
        "without_picture": without,
        **{name: dict(sorted(counter.items())) for name, counter in by.items()},
        "texts_per_picture": _spread(list(pictures.values())),
        "turns": _spread(turns),
        "characters": {role: _spread(counts) for role, counts in lengths.items()},
        "boxes": boxes,
        "answers": len(answers),
        "top_answers": dict(answers.most_common(TOP_ANSWERS)),
        "rejects": rejects,
    }


def _spread(values: list[int]) -> dict[str, float]:
    """Return minimum, median, 95th percentile, maximum and mean; nothing for no values."""
    if not values:
        return {}
    spread = [*np.percentile(values, [0, 50, 95, 100]), np.mean(values)]
    names = ("min", "median", "p95", "max", "mean")
    return {name: round(float(value), 2) for name, value in zip(names, spread, strict=True)}
