"""``data inspect``: a page with pictures, all their texts, and filters; everything is inside the one file."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import write_text
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.formats import Reject

SIDE = 224  # pixels of a thumbnail's longer side


def write_sheet(path: Path, out: Path, *, count: int = 200, seed: int = 0) -> int:
    """Write ``out``, an HTML page of ``count`` pictures (or dialogues without one) with all texts about them.

    Returns:
        How many are shown. A picture that cannot be read is shown as its reason, and so are rows that are no
        records.

    Raises:
        DataError: there is no dataset.
    """
    cards, rejects, total = _drawn(path, count, random.Random(seed))
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


def _drawn(path: Path, count: int, rng: random.Random) -> tuple[list[list[Example]], list[Reject], int]:
    """Texts of ``count`` pictures drawn from a stream (Vitter's algorithm R), and the first rejects."""
    chosen: dict[str, list[Example]] = {}
    seen: set[str] = set()
    rejects: list[Reject] = []
    for number, found in enumerate(iter_records(path)):
        if isinstance(found, Reject):
            rejects += [found] if len(rejects) < count else []
            continue
        key = found.image_id or f"{found.id}#{number}"
        if key in chosen:
            chosen[key].append(found)
        elif key not in seen:
            seen.add(key)
            if len(chosen) >= count:
                if rng.randrange(len(seen)) >= count:
                    continue
                del chosen[rng.choice(list(chosen))]
            chosen[key] = [found]
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
    """A data URL, and the boxes of the texts in percent of width and height."""
    width, height = picture.size
    boxes = [
        {"label": box.label, "style": _place(box.xyxy, width, height)} for text in texts for box in text.boxes
    ]
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"url": f"data:image/jpeg;base64,{data}", "boxes": boxes, "size": f"{width} x {height}"}


def _place(xyxy: tuple[float, float, float, float], width: int, height: int) -> str:
    x0, y0, x1, y1 = (100 * value / side for value, side in zip(xyxy, (width, height) * 2, strict=True))
    return f"left:{x0:.2f}%;top:{y0:.2f}%;width:{x1 - x0:.2f}%;height:{y1 - y0:.2f}%"
