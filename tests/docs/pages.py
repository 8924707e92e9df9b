"""The pages as tests read them: blocks of code, links, anchors, commands.

A block of a tutorial page is run, unless a comment before it says why it is not:

    <!-- not run: needs a GPU -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
TUTORIALS = ("quickstart", "init", "fine-tune", "forge", "evaluation", "serving", "scale-out")

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n\n?)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S
)
_LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")
_SOURCE = re.compile(r"(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """One fenced block: ``kind`` is the word behind the fence, ``reason`` why it is not run."""

    page: Path
    line: int
    kind: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text("utf-8")
    return [
        Block(page, 1 + text.count("\n", 0, one.start("kind")), one["kind"], one["text"], one["reason"])
        for one in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text("utf-8"))


def links(page: Path) -> list[str]:
    """Where its links and pictures lead, but for addresses on the web."""
    found = [*_LINK.findall(prose(page)), *_SOURCE.findall(prose(page))]
    return [link for link in found if not link.startswith(("http:", "https:", "mailto:"))]


def anchors(page: Path) -> set[str]:
    """The names of its headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def commands(page: Path) -> list[tuple[str, bool]]:
    """The ``ziya-visual`` command lines of its blocks (whole ones: True) and of its prose (False)."""
    found = []
    for block in blocks(page):
        if block.kind in ("sh", "bash", "console", ""):
            text = re.sub(r"\\\n\s*", " ", block.text)
            found += [(line, block.kind != "") for line in re.findall(r"ziya-visual [^|&<>\n]*", text)]
    found += [(line, False) for line in re.findall(r"`(?:[A-Z_]+=\S+ )?(ziya-visual [^`]*)`", prose(page))]
    return found
