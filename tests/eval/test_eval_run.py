from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import write_json, write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.eval.results import Metric, results
from ziya_visual.eval.run import evaluate, majority
from ziya_visual.eval.suites import Section, Suite, load_suite, make_pools

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
WORDS = {"zh": {"red": "红色", "blue": "蓝色"}, "en": {"red": "red", "blue": "blue"}}


class Looker:
    """Answers with the colour of the picture, in the language asked; sees red in a grey one."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image.Image] | None = None,
    ) -> list[str]:
        assert images is not None
        self.batches.append([str(example.image_id) for example in examples])
        said = []
        for example in examples:
            red, _, blue = images[str(example.image_id)].getpixel((0, 0))  # type: ignore[misc]
            word = WORDS[example.lang]["red" if red >= blue else "blue"]
            said.append(word if example.task == "vqa" else f"a {word} thing")
        return said

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        return np.stack([np.array([[p[0] + 1, 1, p[2] + 1]], np.float32) for p in map(pixel, images)])

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[1 + 255 * ("red" in t), 1, 1 + 255 * ("blue" in t)] for t in texts], np.float32)


def pixel(image: Image.Image) -> tuple[int, int, int]:
    found = image.getpixel((0, 0))
    assert isinstance(found, tuple)
    return found  # type: ignore[return-value]


def suite() -> Suite:
    colors = ["red", "blue"] * 4
    images = {f"i{i}": Image.new("RGB", (8, 8), COLORS[color]) for i, color in enumerate(colors)}
    sections = {}
    for lang in ("en", "zh"):
        asked, told = [], []
        for i, color in enumerate(colors):
            word = WORDS[lang][color]
            ask = (Message("user", "color?"),)
            for kind, truth in (("color", word), ("count", WORDS[lang]["red"])):
                meta = {"question_type": kind}
                asked.append(
                    Example(f"{lang}{i}{kind}", lang, "vqa", ask, None, f"i{i}", (truth,), meta=meta)
                )
            told.append(
                Example(f"{lang}c{i}", lang, "caption", ask, None, f"i{i}", (f"a {word} thing {i // 2}",))
            )
        sections["new", lang] = Section(asked, told, make_pools(told, size=2))
    return Suite("test", sections, images, lambda text, lang: [w for w in WORDS[lang].values() if w in text])


def find(metrics: Sequence[Metric], **wanted: str) -> Metric:
    found = [m for m in metrics if all(getattr(m, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_measures_what_the_model_does(tmp_path: Path) -> None:
    model = Looker()
    metrics = evaluate(model, suite(), name="chat", out=tmp_path)
    assert find(metrics, lang="zh", name="type:color").value == 100.0
    assert find(metrics, lang="en", name="type:count").value == 50.0
    accuracy = find(metrics, lang="en", name="accuracy")
    assert (accuracy.value, accuracy.n, accuracy.split) == (75.0, 16, "new")
    assert accuracy.low < 75.0 < accuracy.high
    assert find(metrics, lang="zh", name="keyword_f1").value == 100.0
    assert find(metrics, lang="en", name="i2t_r1").value == 100.0
    assert find(metrics, lang="en", name="cider").value > 0
    assert all(batch == sorted(batch) for batch in model.batches), "questions of a picture stand together"
    lines = (tmp_path / "predictions" / "chat.new.zh.vqa.jsonl").read_text("utf-8").splitlines()
    row = json.loads(lines[0])
    assert (row["prediction"], row["answers"], row["prompt"]) == ("红色", ["红色"], "color?")


def test_blank_pictures_and_majority_do_not_look(tmp_path: Path) -> None:
    blank = evaluate(Looker(), suite().blank(), name="blank", out=tmp_path, tasks=("vqa",))
    assert find(blank, lang="en", name="type:color").value == 50.0
    assert {metric.task for metric in blank} == {"vqa"}
    base = majority(suite(), out=tmp_path)
    assert find(base, lang="zh", name="type:count").value == 100.0
    assert find(base, lang="zh", name="type:color").value == 50.0


def test_pools_hold_each_picture_once_and_different_captions() -> None:
    examples = [
        Example(str(i), "en", "caption", (), None, f"i{i}", (text,)) for i, text in enumerate("aabbccdaef")
    ]
    pools = make_pools([*examples, *examples], size=3)
    assert len(pools) == 3
    for pool in pools:
        assert len(set(pool.captions)) == len(set(pool.image_ids)) == 3
    assert len({image for pool in pools for image in pool.image_ids}) == 9


def test_results_file(tmp_path: Path) -> None:
    row = Metric("chat", "new", "en", "vqa", "accuracy", 91.23456, 90.1, 92.3, 4000)
    content = results([row], seconds={"total": 1.234}, seed=0, versions={"torch": "2"}, card={})
    write_json(tmp_path / "results.json", content)
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "metrics": [
            {"model": "chat", "split": "new", "lang": "en", "task": "vqa", "name": "accuracy",
             "value": 91.2346, "low": 90.1, "high": 92.3, "n": 4000}
        ],
        "seconds": {"total": 1.23}, "seed": 0, "versions": {"torch": "2"}, "card": {},
    }  # fmt: skip


def test_a_suite_from_a_file(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), COLORS["blue"]).save(tmp_path / "a.png")
    ask = (Message("user", "color?"),)
    good = Example("1", "en", "vqa", ask, ImageRef("a.png"), None, ("blue",), meta={"split": "unseen"})
    path = tmp_path / "mine.jsonl"
    write_records(path, [good])
    loaded = load_suite(path)
    metrics = evaluate(Looker(), loaded, name="x", out=tmp_path)
    assert find(metrics, split="unseen", name="accuracy").value == 100.0
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: not a readable image"):
        evaluate(Looker(), loaded, name="x", out=tmp_path)
    write_records(path, [Example("1", "en", "text", ask)])
    with pytest.raises(DataError, match="has task 'text'"):
        load_suite(path)
