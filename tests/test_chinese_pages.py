"""The Chinese pages hold the numbers, commands and links of the English ones: they cannot drift apart."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAIRS = [("README.md", "README_zh.md"), ("docs/quickstart.md", "docs/quickstart.zh.md")]
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?![\w.]*\d)")
# 2026 年 11 月 26 日 stands as 26 November 2026 in the English page.
MONTHS = dict(
    enumerate(
        "January February March April May June July August September October November December".split(), 1
    )
)


@pytest.fixture(params=PAIRS, ids=[chinese for _, chinese in PAIRS])
def pages(request: pytest.FixtureRequest) -> tuple[str, str]:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in request.param)
    return english, chinese


def commands(page: str) -> list[str]:
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).splitlines()
    return [" ".join(line.partition("  #")[0].partition(" # ")[0].split()) for line in lines]


def rows(page: str) -> list[list[str]]:
    """The numbers of every row of every table, in order."""
    return [NUMBER.findall(line) for line in page.splitlines() if line.startswith("|")]


def prose(page: str) -> str:
    return re.sub(r"```.*?```", "", page, flags=re.DOTALL)


def test_they_give_the_same_commands(pages: tuple[str, str]) -> None:
    english, chinese = map(commands, pages)
    assert english == chinese
    assert len(english) >= 2


def test_every_row_has_the_same_numbers(pages: tuple[str, str]) -> None:
    english, chinese = map(rows, pages)
    assert english == chinese


def test_no_number_of_the_prose_is_of_their_own(pages: tuple[str, str]) -> None:
    english, chinese = map(prose, pages)
    dates = re.findall(r"(\d+) 年 (\d+) 月 (\d+) 日", chinese)
    assert all(f"{day} {MONTHS[int(month)]} {year}" in english for year, month, day in dates)
    chinese = re.sub(r"\d+ 年 \d+ 月 \d+ 日", "", chinese)
    assert set(NUMBER.findall(chinese)) <= set(NUMBER.findall(english))
    assert set(re.findall(r"`[^`\n]+`", chinese)) <= set(re.findall(r"`[^`\n]+`", english))


def test_they_lead_to_each_other_and_to_files_that_are_there() -> None:
    for names in PAIRS:
        for name, other in (names, names[::-1]):
            links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / name).read_text("utf-8"))
            assert Path(other).name in links, name
            assert all((ROOT / name).parent.joinpath(link).exists() for link in links), links


def test_the_chinese_is_set_as_chinese_is() -> None:
    """A space between Chinese and Latin letters or digits; Chinese punctuation, half-width digits."""
    for _, name in PAIRS:
        text = re.sub(r"`[^`\n]*`|\]\([^)]*\)", "`x`", prose((ROOT / name).read_text("utf-8")))
        assert not re.findall(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9%][\u4e00-\u9fff]", text), name
        assert not re.findall(r"[\u4e00-\u9fff][,;:?!]|[０-９Ａ-Ｚａ-ｚ]", text), name
