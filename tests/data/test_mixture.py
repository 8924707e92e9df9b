"""The mixture: shares as promised, counts exact, every record once before any twice, exact to resume."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziya_visual.core.errors import DataError
from ziya_visual.data.mixture import Mixture, Part

PARTS = {"coco": Part(900, "en"), "vqa": Part(100, "en"), "cn": Part(25, "zh")}


def test_shares_are_those_of_the_temperature_and_languages_are_alike() -> None:
    assert Mixture(PARTS, seed=0).shares == pytest.approx({"cn": 0.5, "coco": 0.375, "vqa": 0.125})
    by_size = Mixture(PARTS, seed=0, temperature=1).shares
    assert by_size == pytest.approx({"cn": 0.5, "coco": 0.45, "vqa": 0.05})
    alike = Mixture(PARTS, seed=0, temperature=math.inf).shares
    assert alike == pytest.approx({"cn": 0.5, "coco": 0.25, "vqa": 0.25})


def test_what_is_reported_is_what_was_drawn() -> None:
    mixture = Mixture(PARTS, seed=3)
    drawn = mixture.draws(0, 20_000)
    seen = Counter(drawn)
    for row in mixture.report(20_000):
        own = [seen[row["name"], number] for number in range(row["records"])]
        assert sum(own) == row["drawn"]
        assert row["epochs"] == row["drawn"] / row["records"]
        assert max(own) - min(own) <= 1, "each once before any twice"
        # five standard deviations of a share among 20,000 draws
        assert abs(row["drawn_share"] - row["share"]) < 5 * (row["share"] / 20_000) ** 0.5
    assert sum(row["drawn"] for row in mixture.report(20_000)) == 20_000
    assert Mixture(PARTS, seed=4).draws(0, 50) != drawn[:50]


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.builds(Part, st.integers(1, 9), st.sampled_from(["en", "zh"])),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 9000),
)
@settings(max_examples=30)
def test_draws_are_the_same_wherever_one_begins(parts: dict[str, Part], stop: int) -> None:
    whole = Mixture(parts, seed=1).draws(0, stop + 50)
    other = Mixture(parts, seed=1)
    assert other.draws(stop, 50) == whole[stop:]
    assert other.draws(stop // 2, 50) == whole[stop // 2 : stop // 2 + 50]
    assert other.draws(stop // 2 + 50, 1) == Mixture(parts, seed=1).draws(stop // 2 + 50, 1)
    counts = Counter(name for name, _ in whole[:stop])
    assert {row["name"]: row["drawn"] for row in other.report(stop)} == {n: counts[n] for n in parts}


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(DataError, match="cn has none"):
        Mixture(PARTS | {"cn": Part(0, "zh")}, seed=0)
    with pytest.raises(DataError, match=r"temperature is 0\.5"):
        Mixture(PARTS, seed=0, temperature=0.5)
