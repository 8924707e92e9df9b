from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ziya_visual.eval.report.page import Sample, Target, write_report


def row(model: str, lang: str, task: str, name: str, value: float, split: str = "new") -> dict[str, Any]:
    return {
        "model": model, "split": split, "lang": lang, "task": task, "name": name,
        "value": value, "low": value - 1, "high": value + 1, "n": 400,
    }  # fmt: skip


RESULTS = {
    "metrics": [
        *(row(m, lang, "vqa", n, v) for lang in ("en", "zh") for n in ("accuracy", "type:color")
          for m, v in (("base", 80.0), ("chat", 90.25), ("majority", 30.0), ("blank", 33.3))),
        row("chat", "en", "retrieval", "i2t_r1", 96.5),
        row("chat", "en", "caption", "cider", 3.21),
        row("forge", "zh", "forge", "accepted", 96.0, "train"),
    ],
    "seconds": {"total": 300.0, "train": 200.0},
    "seed": 0,
    "versions": {"torch": "2.13.0"},
    "card": {"title": "A <run>", "command": "ziya-visual quickstart"},
}  # fmt: skip
CURVES = [{"stage": "1 align", "step": i, "name": "loss", "value": 1 / (i + 1)} for i in range(600)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    samples = [
        Sample(image, "zh", "new", "vqa", "什么颜色？", "红色", "红色", True),
        Sample(image, "en", "unseen", "vqa", "<b>?</b>", "", "red", False),
    ]
    targets = [Target("vqa", "accuracy", "new", 91, 95), Target("retrieval", "i2t_r1", "new", 90, 96)]
    return write_report(tmp_path, RESULTS, CURVES, samples, targets=targets)


def test_stands_alone_and_shows_every_part(page: Path) -> None:
    html = page.read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', html), "an address that is not in the file"
    assert "url(" not in html
    assert "<script" not in html
    for part in (
        "90.2",
        "89.2–91.2",
        "3.21",
        "中文",
        "什么颜色？",
        "ziya-visual quickstart",
        "3 min 20 s",
        "96.0",
    ):
        assert part in html, part
    assert "<b>?</b>" not in html
    assert "A &lt;run&gt;" in html


def test_marks_floor_and_aim(page: Path) -> None:
    html = page.read_text("utf-8")
    assert re.search(r'<td class="lead below">90\.2', html)
    assert re.search(r'<td class="lead aim">96\.5', html)


def test_works_without_curves_samples_and_baselines(tmp_path: Path) -> None:
    only = {**RESULTS, "metrics": [row("base", "en", "vqa", "accuracy", 50.0)], "card": {}}
    html = write_report(tmp_path, only, [], []).read_text("utf-8")
    assert "50.0" in html
    assert "Learning curves" not in html


def test_any_languages_are_shown_and_the_gap_is_between_the_furthest(tmp_path: Path) -> None:
    values = {"en": 80.0, "es": 71.5, "eu": 78.0}
    rows = [row("chat", lang, "vqa", "accuracy", value) for lang, value in values.items()]
    html = write_report(tmp_path, {**RESULTS, "metrics": rows, "card": {}}, [], []).read_text("utf-8")
    assert [*re.findall(r'<h3 lang="(\w\w)">', html)][:3] == ["en", "es", "eu"]
    assert "Español" in html
    assert "<b>8.5</b><span>points between languages, new scenes" in html


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_fits_a_phone(page: Path) -> None:
    probe = page.with_name("probe.html")
    script = "<script>document.body.dataset.over = document.body.scrollWidth - innerWidth;</script></body>"
    probe.write_text(page.read_text("utf-8").replace("</body>", script), "utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=500,800",
        "--dump-dom",
    ]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r'data-over="(-?\d+)"', done.stdout)
    assert found
    assert int(found[1]) <= 0
