"""The page in Debian's Chromium: asked, shown, searched, voted on; wide and phone-wide, in both languages."""

import base64
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ziya_visual.eval.judge.leaderboard import leaderboard
from ziya_visual.infer.engine import ZiyaVisual

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for color in ("red", "blue", "green"):
        path = folder / f"{color}.png"
        Image.new("RGB", (64, 48), color).save(path)
        found.append(str(path))
    return found


@pytest.fixture(scope="module")
def page_at(model: ZiyaVisual, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page of two models, and where its votes go."""
    from ziya_visual.serve.web import build_page

    votes = tmp_path_factory.mktemp("votes")
    page, words = build_page(model, name="ours", other=(model, "theirs"), votes=votes)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, address, _ = page.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, i18n=words
    )
    yield address, votes
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser: Any, address: str, locale: str, size: dict[str, int]) -> Any:
    page = browser.new_context(locale=locale, viewport=size).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.faults = faults
    page.goto(address)
    page.get_by_role("tab").first.wait_for()
    return page


def keep(page: Any, name: str) -> None:
    """A screenshot for whoever wants to look: SCREENSHOTS=FOLDER."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_tab_is_there_in_the_browsers_language(
    browser: Any, page_at: tuple[str, Path], locale: str, size: dict[str, int]
) -> None:
    from ziya_visual.serve.web import WORDS

    own = {key: texts[0 if locale.startswith("en") else 1] for key, texts in WORDS.items()}
    page = opened(browser, page_at[0], locale, size)
    page.get_by_text(own["dialogue"]).first.wait_for()
    assert page.get_by_role("tab", name=own["chat"]).count()
    page.get_by_placeholder(own["ask"]).first.wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"], "nothing sticks out sideways"
    keep(page, f"{locale}-{size['width']}")
    assert page.faults == []


def settled_answers(page: Any) -> list[str]:
    """Return the model's answers once they have stayed the same for 1.5 seconds."""
    for _ in range(20):
        answers = page.get_by_test_id("bot").all_inner_texts()
        page.wait_for_timeout(1500)
        if page.get_by_test_id("bot").all_inner_texts() == answers:
            break
    return list(answers)


def test_a_dialogue_with_a_picture(
    browser: Any, page_at: tuple[str, Path], model: ZiyaVisual, pictures: list[str]
) -> None:
    page = opened(browser, page_at[0], "en-US", WIDE)
    page.locator("input[type=file]").first.set_input_files(pictures[0])
    box = page.get_by_role("textbox").first
    box.fill("What color?")
    page.wait_for_timeout(500)
    box.press("Enter")
    expected = max(re.findall(r"\w+", model.chat(pictures[0], "What color?")), key=len)
    page.get_by_text(expected).first.wait_for(timeout=30_000)
    keep(page, "dialogue")
    box.fill("红色?")
    box.press("Enter")
    page.get_by_test_id("bot").nth(1).wait_for(timeout=30_000)
    before = settled_answers(page)
    assert len(before) == 2
    page.get_by_role("button", name="Retry").first.click()
    page.wait_for_timeout(1500)
    assert settled_answers(page) == before, "a greedy answer comes again as it was"
    assert page.faults == []


GIVE = """([kind, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], "it.png", {type: "image/png"}));
    const how = {bubbles: true, cancelable: true};
    document.querySelector("textarea").dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: given, ...how})
        : new DragEvent("drop", {dataTransfer: given, ...how}));
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(
    browser: Any, page_at: tuple[str, Path], model: ZiyaVisual, pictures: list[str], kind: str
) -> None:
    page = opened(browser, page_at[0], "en-US", WIDE)
    box = page.get_by_role("textbox").first
    box.click()
    page.evaluate(GIVE, [kind, base64.b64encode(Path(pictures[2]).read_bytes()).decode()])
    shown = page.get_by_role("tabpanel").filter(visible=True).locator("img[src*='it.png']")
    playwright.expect(shown.first).to_be_visible(timeout=15_000)
    box.fill("What color?")
    box.press("Enter")
    expected = max(re.findall(r"\w+", model.chat(pictures[2], "What color?")), key=len)
    page.get_by_test_id("bot").get_by_text(expected).first.wait_for(timeout=30_000)
    keep(page, kind)
    assert page.faults == []


def test_where_it_looks_is_shown(browser: Any, page_at: tuple[str, Path], pictures: list[str]) -> None:
    page = opened(browser, page_at[0], "zh-CN", PHONE)
    page.get_by_role("tab", name="注意力").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator("input[type=file]").first.set_input_files(pictures[1])
    playwright.expect(panel.locator("img")).to_have_count(1, timeout=30_000)
    panel.get_by_role("button", name="显示").click()
    playwright.expect(panel.locator("img")).to_have_count(2, timeout=30_000)
    keep(page, "look")
    assert page.faults == []


def test_a_search_puts_the_best_first(
    browser: Any, page_at: tuple[str, Path], model: ZiyaVisual, pictures: list[str]
) -> None:
    page = opened(browser, page_at[0], "en-US", WIDE)
    page.get_by_role("tab", name="Find pictures").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator("input[type=file]").first.set_input_files(pictures)
    panel.get_by_label("Description").fill("a red ring")
    page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Search").click()
    text, *shown = model.embed(["a red ring", *map(Path, pictures)])
    best = max(float((one @ text).max()) for one in shown)
    page.get_by_text(f"{best:.3f}").first.wait_for(timeout=30_000)
    keep(page, "find")
    assert page.faults == []


def test_a_vote_goes_into_the_leaderboards_file(
    browser: Any, page_at: tuple[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    address, votes = page_at
    page = opened(browser, address, "en-US", WIDE)
    page.get_by_role("tab", name="Side by side").click()
    panel = page.get_by_role("tabpanel").last
    panel.locator("input[type=file]").first.set_input_files(pictures[2])
    page.wait_for_timeout(500)
    panel.get_by_label("Question").fill("What color is the ring?")
    panel.get_by_role("button", name="Show").click()
    better = panel.get_by_role("button", name="Left is better")
    playwright.expect(better).to_be_enabled(timeout=30_000)
    keep(page, "compare")
    better.click()
    playwright.expect(better).to_be_disabled(timeout=10_000)
    row = json.loads((votes / "reviews.jsonl").read_text().splitlines()[-1])
    assert row["question"] == "What color is the ring?"
    assert sorted(row["models"]) == ["ours", "theirs"]
    assert leaderboard([votes], out=tmp_path)["judges"][0]["judge"] == "people"
