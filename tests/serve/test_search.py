"""Pictures found by a text: what is there is found, what did not change is not looked at again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny

from ziya_visual.core.errors import DataError
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.serve import search
from ziya_visual.serve.search import INDEX, find, index_folder

COLORS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "checkpoint"
    model, alignment, processor = tiny()
    save_checkpoint(folder, model=model, alignment=alignment, processor=processor)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    for number, color in enumerate(COLORS):
        place = tmp_path if number % 2 else tmp_path / "below"
        Image.new("RGB", (20, 20), color).save(place / f"{color}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("text", ["a red ring", "一个红色的圆环"])
def test_the_order_is_that_of_the_model(checkpoint: Path, pictures: Path, text: str) -> None:
    made = index_folder(pictures, checkpoint)
    assert made.names == ["below/blue.png", "below/red.png", "green.png", "white.png"]
    found = find(text, pictures, checkpoint, count=3)
    model = ZiyaVisual.from_pretrained(checkpoint)
    images = [Image.open(pictures / name) for name in made.names]
    scores = np.einsum("nqd,d->nq", model.embed_images(images), model.embed_texts([text])[0]).max(1)
    order = np.argsort(-scores)[:3]
    assert [one.path for one in found] == [pictures / made.names[row] for row in order]
    assert [one.score for one in found] == pytest.approx(scores[order].tolist(), abs=1e-2)


def test_only_what_changed_is_embedded_again(
    checkpoint: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_folder(pictures, checkpoint)
    (pictures / "green.png").unlink()
    Image.new("RGB", (20, 20), "black").save(pictures / "new.png")
    opened: list[str] = []
    real = search.load_image
    monkeypatch.setattr(search, "load_image", lambda path: opened.append(path.name) or real(path))
    made = index_folder(pictures, checkpoint)
    assert opened == ["new.png"]
    assert made.names == ["below/blue.png", "below/red.png", "new.png", "white.png"]


def test_what_cannot_be_read_is_left_out_with_a_line(
    checkpoint: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "broken.png").write_bytes((pictures / "white.png").read_bytes()[:40])
    made = index_folder(pictures, checkpoint)
    assert "broken.png" not in made.names
    assert "skipped" in caplog.text
    assert "broken.png" in caplog.text
    whole = (pictures / INDEX).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"damaged", b""):
        (pictures / INDEX).write_bytes(damaged)
        assert index_folder(pictures, checkpoint).names == made.names


def test_without_pictures_or_an_index_it_says_what_to_do(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable picture there"):
        index_folder(tmp_path, checkpoint)
    with pytest.raises(DataError, match="create it: ziya-visual index"):
        find("red", tmp_path, checkpoint)
    with pytest.raises(DataError, match="the text is empty"):
        find("  ", tmp_path, checkpoint)


@pytest.mark.slow
def test_the_commands_as_they_are_typed(checkpoint: Path, pictures: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "ziya_visual", *words, "--model", str(checkpoint)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run("index", str(pictures)).strip() == "4 pictures"
    lines = run("find", "红色", "--in", str(pictures), "--count", "2").splitlines()
    assert len(lines) == 2
    assert all(Path(line.split(maxsplit=1)[1]).is_file() for line in lines)
