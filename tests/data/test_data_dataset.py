"""Datasets in files: what is written comes back, stock `datasets` opens it, a stopped stream goes on."""

import contextlib
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Box, Example, ImageRef, Message, Provenance
from ziya_visual.data import dataset
from ziya_visual.data.dataset import Form, iter_records, stream, stream_records, write_dataset
from ziya_visual.data.formats import Reject

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def png(color: int, side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (color, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


EXAMPLES = st.builds(
    Example,
    id=TEXT,
    lang=st.sampled_from(["en", "zh"]),
    task=st.sampled_from(["caption", "vqa", "grounded"]),
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=TEXT), max_size=3
    ).map(tuple),
    image=st.none() | st.builds(ImageRef, bytes=st.integers(0, 3).map(png)),
    image_id=st.none() | TEXT,
    answers=st.lists(TEXT, max_size=2).map(tuple),
    boxes=st.lists(st.builds(Box, label=TEXT, xyxy=st.tuples(*[st.floats(-9, 9)] * 4)), max_size=2).map(
        tuple
    ),
    meta=st.dictionaries(TEXT, TEXT, max_size=2),
    provenance=st.builds(Provenance, model=st.none() | TEXT, checks=st.lists(TEXT, max_size=2).map(tuple)),
)


def many(count: int) -> list[Example]:
    """Texts of pictures, three a picture."""
    return [
        Example(
            str(number),
            "en",
            "caption",
            (Message("assistant", f"text {number}"),),
            image=ImageRef(bytes=png(number // 3 % 256)),
            image_id=str(number // 3),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("form", ["parquet", "tar"])
@given(st.lists(EXAMPLES, max_size=5))
@settings(max_examples=40)
def test_records_survive_with_their_pictures(
    tmp_path_factory: pytest.TempPathFactory, form: Form, examples: list[Example]
) -> None:
    folder = tmp_path_factory.mktemp(form)
    assert write_dataset(folder, examples, form) == len(examples)
    assert list(iter_records(folder)) == examples


def test_stock_datasets_opens_what_is_written(tmp_path: Path) -> None:
    import datasets

    for form in ("parquet", "tar"):
        write_dataset(tmp_path / form, many(5), form)
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "parquet/*.parquet"), split="train", streaming=True
    )
    assert [row["messages"][0]["content"] for row in table] == [f"text {n}" for n in range(5)]
    tar = datasets.load_dataset(
        "webdataset", data_files=str(tmp_path / "tar/*.tar"), split="train", streaming=True
    )
    first = next(iter(tar))
    assert first["json"]["id"] == "0"
    assert first["png"].size == (4, 4)


def test_pictures_are_taken_from_their_files_and_stored_once(tmp_path: Path) -> None:
    noise = Image.effect_noise((100, 100), 80)
    noise.save(tmp_path / "a.png")
    text = Example("1", "en", "caption", (Message("assistant", "x"),), ImageRef(path=str(tmp_path / "a.png")))
    write_dataset(tmp_path / "out", [text] * 50, "parquet")
    size = (tmp_path / "a.png").stat().st_size
    assert size < (tmp_path / "out/records-00000.parquet").stat().st_size < 2 * size
    found = list(iter_records(tmp_path / "out"))
    assert isinstance(found[49], Example)
    assert found[49].image == ImageRef(bytes=(tmp_path / "a.png").read_bytes())
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        write_dataset(tmp_path / "none", [text], "parquet")
    assert not list((tmp_path / "none").iterdir()), "nothing of a failed write is left"


@pytest.mark.parametrize("form", ["parquet", "tar"])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_stopped_stream_gives_exactly_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, seed: int | None
) -> None:
    monkeypatch.setattr(dataset, "GROUP_ROWS", 7)
    monkeypatch.setattr(dataset, "FILE_ROWS", 90)
    examples = many(200)
    write_dataset(tmp_path, examples, form)
    order = [row["id"] for row in stream(tmp_path, seed=seed)]
    assert sorted(order, key=int) == [example.id for example in examples]
    assert (order == [example.id for example in examples]) == (seed is None)
    for stop in [0, 1, 55, 56, 57, 199, *random.Random(0).sample(range(200), 8)]:
        rows = stream(tmp_path, seed=seed)
        running = iter(rows)
        for _ in range(stop):
            next(running)
        state = json.loads(json.dumps(rows.state_dict()))
        again = stream(tmp_path, seed=seed)
        again.load_state_dict(state)
        assert [row["id"] for row in again] == order[stop:]


def test_every_epoch_has_another_order_of_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "GROUP_ROWS", 2)
    examples = many(100)
    write_dataset(tmp_path, examples, "parquet")
    epochs = [list(stream_records(stream(tmp_path, seed=0, epoch=epoch))) for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    for found in epochs:
        assert sorted(found, key=lambda example: int(example.id)) == examples


@pytest.mark.parametrize("form", ["parquet", "tar", "jsonl"])
def test_damage_is_a_reject_or_one_line(tmp_path: Path, form: Form) -> None:
    """A byte or the end of a file lost: no traceback, and what is not rejected is a record."""
    plain = [Example(str(n), "zh", "text", (Message("assistant", "话" * 9),)) for n in range(30)]
    write_dataset(tmp_path, plain, form)
    (file,) = tmp_path.glob("records*")
    whole = file.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        place = rng.randrange(len(whole))
        changed = bytes([whole[place] ^ 1 << rng.randrange(8)])
        file.write_bytes(rng.choice([whole[:place], whole[:place] + changed + whole[place + 1 :]]))
        found: list[Example | Reject] = []
        with contextlib.suppress(DataError):  # anything else fails the test
            found = list(iter_records(tmp_path))
        assert all(isinstance(row, Example | Reject) for row in found)
        assert all(one.where and one.reason for one in found if isinstance(one, Reject))


@pytest.mark.parametrize("seed", [None, 0])
def test_an_empty_dataset_is_an_empty_stream(tmp_path: Path, seed: int | None) -> None:
    write_dataset(tmp_path, [], "parquet")
    assert list(iter_records(tmp_path)) == []
    assert list(stream(tmp_path, seed=seed)) == []


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none, and there is no captions"):
        list(iter_records(tmp_path))
    write_dataset(tmp_path, many(2), "parquet")
    write_dataset(tmp_path, many(2), "tar")
    with pytest.raises(DataError, match=r"several forms \(\.parquet, \.tar\)"):
        list(iter_records(tmp_path))
    (tmp_path / "x.jsonl").write_text('{"id": 1}\n[]\n"\\ud800"\n' + '{"id": "\\ud800"}\n')
    reasons = [row.reason for row in iter_records(tmp_path / "x.jsonl") if isinstance(row, Reject)]
    assert len(reasons) == 4
    assert "missing fields" in reasons[0]
    with pytest.raises(DataError, match="data check --fix"):
        list(stream(tmp_path / "x.jsonl"))
