"""The quickstart as a whole, seed 0: what it writes, and the floors under its numbers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.io import read_json
from ziya_visual.train.parts import SHIPPED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SHIPPED / "card.json").is_file(), reason="the pre-trained parts are not shipped yet"
    ),
]
LANGS, SPLITS = ("en", "zh"), ("new", "unseen")
KINDS = ("color", "shape", "size", "count", "exist", "relation")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-m", "ziya_visual", "quickstart", "--out", str(out), "--seed", "0"]
    subprocess.run(command, check=True)
    return out


@pytest.fixture(scope="module")
def values(run: Path) -> dict[tuple[str, str, str, str], float]:
    rows = read_json(run / "results.json")["metrics"]
    return {(r["model"], r["split"], r["lang"], f"{r['task']}/{r['name']}"): r["value"] for r in rows}


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize(("split", "floor"), [("new", 85), ("unseen", 75)])
def test_questions(values: dict[Any, float], split: str, lang: str, floor: float) -> None:
    assert values["chat", split, lang, "vqa/accuracy"] >= floor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_question_type_is_above_blind(
    values: dict[Any, float], split: str, lang: str, kind: str
) -> None:
    name = f"vqa/type:{kind}"
    blind = max(values[model, split, lang, name] for model in ("majority", "blank"))
    assert values["chat", split, lang, name] >= blind + 10


@pytest.mark.parametrize("split", SPLITS)
def test_the_languages_are_level(values: dict[Any, float], split: str) -> None:
    english, chinese = (values["chat", split, lang, "vqa/accuracy"] for lang in LANGS)
    assert abs(english - chinese) <= 3


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("way", ["i2t_r1", "t2i_r1"])
@pytest.mark.parametrize(("split", "floor"), [("new", 95), ("unseen", 85)])
def test_retrieval(values: dict[Any, float], split: str, way: str, lang: str, floor: float) -> None:
    assert values["chat", split, lang, f"retrieval/{way}"] >= floor


@pytest.mark.parametrize("lang", LANGS)
def test_captions(values: dict[Any, float], lang: str) -> None:
    assert values["chat", "new", lang, "caption/keyword_f1"] >= 90


def test_the_forge(values: dict[Any, float]) -> None:
    assert values["forge", "train", "zh", "forge/accepted"] >= 80
    assert values["forge", "train", "zh", "forge/wrong_among_accepted"] <= 1


def test_it_is_quick(run: Path) -> None:
    seconds = read_json(run / "results.json")["seconds"]
    assert seconds["total"] <= 12 * 60
    assert seconds["train"] <= 10 * 60


@pytest.mark.parametrize("question", ["What is in the picture?", "图片里有什么？"])
def test_chat_answers_in_the_language_of_the_question(run: Path, question: str) -> None:
    picture = next((run / "data" / "images").iterdir())
    command = [sys.executable, "-m", "ziya_visual", "chat", str(run / "checkpoint"), "--image", str(picture)]
    done = subprocess.run(command, input=f"{question}\n", capture_output=True, text=True, check=True)
    chinese = any("\u4e00" <= char <= "\u9fff" for char in done.stdout)
    assert chinese == (question[-1] == "？")
    assert (run / "report.html").stat().st_size > 100_000
