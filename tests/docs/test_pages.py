"""What the pages name is there: files, headings, commands with their options, make targets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pages import DOCS, PAGES, ROOT, TUTORIALS, anchors, blocks, commands, links

from ziya_visual.cli.app import app

# Folders of the repository and of the package.
NAMES = {
    one.name for where in (ROOT, ROOT / "src" / "ziya_visual") for one in where.iterdir() if one.is_dir()
}
APP = typer.main.get_command(app)
ELLIPSES = re.compile(r"…|\.\.\.(?=\s|$)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}; there are {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_real(page: Path) -> None:
    for line, whole in commands(page):
        refused = refusal(line, whole=whole)
        assert refused is None, f"{name(page)}: {line}\n{refused}"


def refusal(line: str, *, whole: bool) -> str | None:
    """What the command line would say against a line's names; of a whole one, also what it lacks.

    Values are not looked at: pages write N and URL for them.
    """
    abridged = bool(ELLIPSES.search(line) or re.search(r"(?<!=)\[", line))
    words = [word.strip("[]") for word in shlex.split(ELLIPSES.sub(" ", line), comments=True)][1:]
    command: Any = APP
    context = command.make_context("ziya-visual", [], resilient_parsing=True)
    words = [word for word in words if word]
    while hasattr(command, "commands"):
        options = [word for word in words[:1] if word.startswith("-")]
        if options or not words:
            return parsed(command, context, words)
        if words[0] not in command.commands:
            return f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
        context = command.make_context(command.name, [], parent=context, resilient_parsing=True)
    said = parsed(command, context, words)
    if said is None and whole and not abridged:
        values, _, _ = command.make_parser(context).parse_args(args=list(words))
        lacking = [p.name for p in command.params if p.required and not values.get(p.name)]
        return f"lacks {lacking}" if lacking else None
    return said


def parsed(command: Any, context: Any, words: list[str]) -> str | None:
    context.resilient_parsing = False
    try:
        _, left, _ = command.make_parser(context).parse_args(args=list(words))
    except Exception as error:  # typer's own kinds of usage error
        return f"{type(error).__name__}: {error}"
    return f"too many words: {left}" if left else None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ziya-visual serv CKPT", "no command 'serv'"),
        ("ziya-visual serve CKPT --prot 8000", "--prot"),
        ("ziya-visual serve CKPT more", "too many words"),
        ("ziya-visual export CKPT", "lacks ['to']"),
        ("ziya-visual forge check pairs.jsonl --from en --to zh", "lacks ['out']"),
        ("ziya-visual serve CKPT --port", "--port"),
    ],
)
def test_a_wrong_command_would_be_found(line: str, said: str) -> None:
    assert said in (refusal(line, whole=True) or "")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_are_where_they_are_said_to_be(page: Path) -> None:
    """Of the repository, or below the package, where pages leave ``src/ziya_visual`` out."""
    places = (ROOT, ROOT / "src" / "ziya_visual", page.parent)
    for path in re.findall(r"`([a-z_]+/[\w./-]+\.(?:py|yaml|jinja|md|tsv))[` :]", page.read_text("utf-8")):
        if path.split("/")[0] in NAMES and not re.search("[A-Z]{4}", path):
            assert any((place / path).is_file() for place in places), f"{name(page)}: {path}"


def test_make_targets_are_real() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = [
            *re.findall(r"`make ([a-z -]+)`", text),
            *re.findall(r"^make ([a-z -]+?)(?:\s+#.*)?$", text, re.M),
        ]
        for target in " ".join(lines).split():
            assert target in targets, f"{name(page)}: make {target}"


def test_every_page_is_in_the_navigation_once() -> None:
    class Loader(yaml.SafeLoader):
        """For the one function that mkdocs.yml names."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)

    def pages(nav: Any) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        return [one for part in (nav.values() if isinstance(nav, dict) else nav) for one in pages(part)]

    assert sorted(pages(config["nav"])) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_what_a_tutorial_does_not_run_has_its_reason() -> None:
    kinds = {
        block.kind for page in TUTORIALS for block in blocks(DOCS / f"{page}.md") if block.reason is None
    }
    assert kinds <= {"sh", "python", "csv", "json", "yaml"}, "a block of no such kind is neither run nor data"
