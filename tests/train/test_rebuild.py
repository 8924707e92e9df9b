"""The shipped parts made again by their command: the same data, and scores as on the card."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.train.parts import SHIPPED, read_card

pytestmark = pytest.mark.soak
TOLERANCE = 5.0  # points: other cores and thread counts add in another order


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("parts") / "parts"
    command = shlex.split(read_card(SHIPPED)["command"])[1:]
    subprocess.run([sys.executable, "-m", "ziya_visual", *command, "--out", str(folder)], check=True)
    return read_card(folder)


def test_it_is_made_from_the_same_data_in_as_many_steps(rebuilt: dict[str, Any]) -> None:
    shipped = read_card(SHIPPED)
    assert (rebuilt["data"], rebuilt["steps"], rebuilt["seed"]) == (
        shipped["data"],
        shipped["steps"],
        shipped["seed"],
    )


@pytest.mark.parametrize("part", ["vit", "lm"])
def test_it_scores_as_the_shipped_one(rebuilt: dict[str, Any], part: str) -> None:
    shipped = read_card(SHIPPED)["scores"][part]
    assert rebuilt["scores"][part] == pytest.approx(shipped, abs=TOLERANCE)
