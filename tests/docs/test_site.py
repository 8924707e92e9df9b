"""The site is built without a warning, and a browser that opens it asks nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, ROOT

# What a page makes a browser fetch, as against where its links lead.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)[^>]*?\s(?:src|srcset)=\"?((?:https?:)?//[^\"\s>]+)"
    r"|<link[^>]*?\shref=\"?((?:https?:)?//[^\"\s>]+)"
    r"|url\([\"']?((?:https?:)?//[^\"')]+)|@import\s+[\"']((?:https?:)?//[^\"']+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len([page for page in pages if page.suffix == ".html"]) > len([*DOCS.glob("*.md")])
    found = {
        f"{page.relative_to(site)}: {next(filter(None, hit))}"
        for page in pages
        for hit in FETCHED.findall(page.read_text("utf-8"))
    }
    assert not found


@pytest.mark.slow
def test_the_reference_holds_what_it_promises(site: Path) -> None:
    """Entries come from the source without it being imported; an object that was renamed is a warning."""
    reference = (site / "api.html").read_text("utf-8")
    promised = re.findall(r"^::: ([\w.]+)", (DOCS / "api.md").read_text("utf-8"), re.M)
    assert len(promised) > 30
    entries = set(re.findall(r'id="(ziya_visual[\w.]+)"', reference))
    modules = {"ziya_visual.core.records", "ziya_visual.core.errors"}  # of which only members have entries
    assert set(promised) - modules <= entries
    assert {"ziya_visual.core.records.Example", "ziya_visual.infer.engine.ZiyaVisual.chat"} <= entries
    assert ":func:" not in reference
    assert ":class:" not in reference


def test_foreign_addresses_would_be_found() -> None:
    for text in (
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel=stylesheet href=//fonts.example/css>",
        "a { background: url(https://img.example/a.png) }",
        '<img alt="" src="http://img.example/a.png">',
    ):
        assert FETCHED.search(text), text
    assert not FETCHED.search('<a href="https://arxiv.org/abs/2310.08166">')
