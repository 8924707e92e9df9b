"""The leak guard on photographs, on drawn scenes and on texts; the index behind it."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
import skimage
from PIL import Image, ImageOps

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example, ImageRef, Message, Provenance
from ziya_visual.data import leaks
from ziya_visual.data.fingerprints import fingerprint, phash
from ziya_visual.data.leaks import RADIUS, HashIndex, KnownImages, find_leaks, refuse_leaks, text_hash

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "ihc.png")


def tiles(count: int = 2) -> list[Image.Image]:
    """Parts of the photographs that do not overlap: each is a picture of its own."""
    found = []
    for name in PHOTOGRAPHS:
        whole = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        width, height = (side // count for side in whole.size)
        for x in range(count):
            for y in range(count):
                found.append(whole.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)))
    return found


def jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image) -> Image.Image:
    """5 % of width and of height cut off, unevenly."""
    width, height = picture.size
    return picture.crop(
        (round(width * 0.01), round(height * 0.04), round(width * 0.96), round(height * 0.99))
    )


@pytest.mark.parametrize("side", [8, 16])
def test_the_hash_is_that_of_imagehash(photographs: list[Image.Image], side: int) -> None:
    grey = [one.convert("L") for one in photographs]
    words = phash(grey, side).view(np.uint8)
    for one, found in zip(grey, words, strict=True):
        wanted = imagehash.phash(one, hash_size=side).hash
        assert np.array_equal(np.unpackbits(found).reshape(side, side), wanted)


COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], float]] = {
    "same": (Image.Image.copy, 1.0),
    "half the size": (lambda one: one.resize((one.width // 2, one.height // 2)), 1.0),
    "JPEG quality 50": (jpeg, 1.0),
    "cropped": (cropped, 0.9),
    "flipped": (ImageOps.mirror, 1.0),
}


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return tiles()


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_photographs_are_found_and_others_are_not(
    photographs: list[Image.Image], name: str
) -> None:
    change, recall = COPIES[name]
    known = KnownImages({str(n): (fingerprint(one), False) for n, one in enumerate(photographs)})
    found = [known.copies_of(fingerprint(change(one)), drawn=False) for one in photographs]
    right = sum(str(n) in copies for n, copies in enumerate(found))
    assert right >= recall * len(photographs), f"{right} of {len(photographs)}"
    wrong = [(n, copies) for n, copies in enumerate(found) if set(copies) - {str(n)}]
    assert not wrong


def record(name: str, picture: Image.Image | None = None, text: str = "?", **fields: object) -> Example:
    image = None
    if picture is not None:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        image = ImageRef(bytes=buffer.getvalue())
    turns = (Message("user", text), Message("assistant", "yes"))
    return Example(name, "en", "vqa", turns, image=image, image_id=name, **fields)  # type: ignore[arg-type]


def scene(at: int) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((200, 0, 0), (at, 20, at + 16, 36))
    return picture


def test_drawn_scenes_are_told_apart_by_their_pixels() -> None:
    grammar = Provenance(origin="grammar")
    near = fingerprint(scene(20)).fine[0] ^ fingerprint(scene(21)).fine[0]
    assert np.bitwise_count(near).sum() < 54, "a perceptual hash would take them for one"
    held = [record("held", scene(20), provenance=grammar)]
    assert not find_leaks([record("a", scene(21), source="scenes")], held).images
    assert len(find_leaks([record("a", scene(20), source="scenes")], held).images) == 1


def test_training_on_what_is_evaluated_is_refused_by_name(photographs: list[Image.Image]) -> None:
    training = [
        record("a", photographs[0]),
        record("b", jpeg(photographs[1])),
        record("t", text="What is Zürich?"),
    ]
    held = {"val.jsonl": [record("x", photographs[1])], "test.jsonl": [record("y", photographs[2])]}
    with pytest.raises(DataError, match=r"val\.jsonl: 1 of its images .* b is x, near copy.*--against val\."):
        refuse_leaks(training, held)
    refuse_leaks(training, held, allowed=["val.jsonl"])
    with pytest.raises(DataError, match=r"q\.jsonl: 1 of its texts .* t is z, same text"):
        refuse_leaks(training, {"q.jsonl": [record("z", text="what is ZÜRICH")]})
    shared = find_leaks(training[:1], [record("x", photographs[3])])
    assert (shared.images, shared.texts, shared.questions) == ([], [], 1), "a question alone is no leak"


def test_fingerprints_are_kept_until_the_file_changes(
    photographs: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Image.Image] = []
    monkeypatch.setattr(leaks, "fingerprint", lambda one: computed.append(one) or fingerprint(one))
    rows = []
    for number in range(3):
        photographs[number].save(tmp_path / f"{number}.png")
        path = ImageRef(path=str(tmp_path / f"{number}.png"))
        rows.append(replace(record(str(number)), image=path, image_id=str(number)))
    rows.append(record("bytes", photographs[4]))
    cache = tmp_path / "kept.npz"
    held = [record("x", jpeg(photographs[1]))]

    def again(count: int) -> None:
        """The one copy is found, and so many of the training data are computed."""
        computed.clear()
        assert [one.training for one in find_leaks(rows, held, cache=cache).images] == [rows[1].image.path]
        assert len(computed) == count + len(held)

    again(4)
    again(0)
    photographs[5].save(tmp_path / "2.png")
    again(1)
    cache.write_bytes(cache.read_bytes()[:100])
    again(4)


def test_texts_are_equal_but_for_case_width_and_punctuation() -> None:
    assert text_hash("Is it RED？") == text_hash("is it red!")
    assert text_hash("它是红色的。") == text_hash(" 它是 红色的")
    assert text_hash("Is it red?") != text_hash("Is it blue?")


def test_the_index_finds_what_comparing_all_finds() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    index = HashIndex(hashes)
    for place in rng.integers(0, len(hashes), 50):
        flipped = rng.permutation(64)[: rng.integers(0, 12)]
        query = hashes[place] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0)
        )
        wanted = np.flatnonzero(np.bitwise_count(hashes ^ query) <= RADIUS)
        assert index.search(query).tolist() == wanted.tolist()
    assert index.nbytes < 30 * len(hashes) + 2_000_000
