"""Every format: its fixture becomes the right record; of broken files rows in = rows out + rows rejected."""

import base64
import contextlib
import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from foreign import BAD_NAMES, JPEG, Format, pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_files import FORMATS

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.records import Example, ImageRef
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.formats import FORMATS as KNOWN
from ziya_visual.data.formats import Parsed, Reject
from ziya_visual.data.tools.importing import import_dataset, rows_of

GOOD = {"coco": 1, "nocaps": 1, "flickr30k": 2, "llava": 2, "hub": 1, "openai": 1, "muge": 1, "folder": 2}
EACH = pytest.mark.parametrize("form", FORMATS, ids=[f"{n}-{one.name}" for n, one in enumerate(FORMATS)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "pictures"
    folder.mkdir()
    pictures(folder)
    return folder


def read(form: Format, folder: Path, rows: list[Any]) -> list[Parsed]:
    path = form.write(folder, rows)
    return list(rows_of(form.name, path, images=folder, **form.options(folder)))


def test_every_format_has_a_fixture() -> None:
    assert {form.name for form in FORMATS} == set(KNOWN)


@EACH
def test_a_file_in_the_exact_format(form: Format, folder: Path) -> None:
    first = read(form, folder, form.rows)[0]
    assert isinstance(first, Example), first
    for name, wanted in form.expected.items():
        value: Any = getattr(first, name)
        if name == "messages":
            value = [(turn.role, turn.content) for turn in value]
        elif name == "boxes":
            value = [(box.label, box.xyxy) for box in value]
        elif name == "image" and value is not None:
            value = value.bytes or os.path.relpath(value.path, folder)
        assert value == wanted, name
    assert first.lang == form.expected.get("lang", "en")


@EACH
def test_what_is_bad_is_rejected_and_good_rows_are_not(form: Format, folder: Path) -> None:
    """The rows with bad names of pictures are those that are rejected, each with a reason on one line."""
    found = read(form, folder, form.rows)
    for row in found:
        if isinstance(row, Reject):
            assert row.where
            assert row.reason
            assert "\n" not in row.reason
    good = [row for row in found if isinstance(row, Example)]
    assert len(good) == GOOD.get(form.name, len(form.rows))
    assert not any(turn.content in ("Bad.", "坏") for one in good for turn in one.messages)


VALUES = [None, 3, -1, 1e400, True, "", "  ", "\ud800", "x" * 250_000, [], {}, ["a"], {"a": None}, *BAD_NAMES]
JUNK = st.sampled_from(VALUES)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


@st.composite
def broken(draw: st.DrawFn, rows: list[Any]) -> Any:
    """A row of which a part is something else, or gone."""
    row = copy.deepcopy(draw(st.sampled_from(rows)))
    if isinstance(row, str):
        return _broken_line(draw, row)
    *parents, last = draw(st.sampled_from([place or (None,) for place in places(row)]))
    if last is None:
        return draw(JUNK)
    inside = row
    for key in parents:
        inside = inside[key]
    if draw(st.booleans()):
        inside[last] = draw(JUNK)
    else:
        del inside[last]
    return row


def _broken_line(draw: st.DrawFn, row: str) -> bytes:
    junk = draw(
        st.binary(min_size=1, max_size=12)
        | st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    start = draw(st.integers(0, len(row)))
    line = row[:start].encode() + junk + row[draw(st.integers(start, len(row))) :].encode()
    return line.replace(b"\n", b"").replace(b"\r", b"") + b"."  # never blank


@EACH
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_in_are_rows_out_and_rejected(form: Format, folder: Path, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(form.rows) | broken(form.rows), min_size=1, max_size=6))
    found = read(form, folder, rows)
    extra = form.name == "folder"  # its fixture has a good row before the others
    assert len(found) == len(rows) + extra
    for row in found:
        if isinstance(row, Reject):
            assert "\n" not in row.where + row.reason
        else:
            json.dumps([turn.content for turn in row.messages], ensure_ascii=False).encode()


@EACH
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe\0", b"null", b"9" * 5000, b"[]", b"{}"]
)
def test_a_file_of_something_else_is_one_line(form: Format, folder: Path, content: bytes) -> None:
    path = form.write(folder, form.rows)
    file = folder / {"folder": "captions.csv", "muge": "train_imgs.tsv"}.get(form.name, path.name)
    file.write_bytes(content)
    found: list[Parsed] = []
    with contextlib.suppress(DataError):  # anything else fails the test
        found = list(rows_of(form.name, path, images=folder, **form.options(folder)))
    assert all(isinstance(row, Reject) for row in found)


LINES = [
    form for form in FORMATS if form.name in ("flickr30k", "flickr30k-cn", "coco-cn", "sharegpt", "muge")
]


@pytest.mark.parametrize("form", LINES, ids=[form.name for form in LINES])
def test_a_line_of_ten_megabytes_is_one_reject(form: Format, folder: Path) -> None:
    path = form.write(folder, [form.rows[0]] * 2)
    file = folder / "train_texts.jsonl" if path.is_dir() else path
    first, second = file.read_bytes().rstrip(b"\n").split(b"\n")
    file.write_bytes(first + b"\n" + b'"' + b"x" * 10_000_000 + b'"\n' + second)
    found = list(rows_of(form.name, path, images=folder, **form.options(folder)))
    assert [type(row) for row in found] == [Example, Reject, Example]
    assert "more than 4,000,000 bytes" in found[1].reason  # type: ignore[union-attr]


def test_split_limit_and_language(folder: Path) -> None:
    token = folder / "results_20130124.token"
    token.write_text("a.jpg#0\tone\n1000092795.jpg#0\ttwo\n1000092795.jpg#1\tthree\n")
    (folder / "test.txt").write_text("1000092795\n")
    found = list(rows_of("flickr30k", token, images=folder, split="test", lang="de", limit=1))
    assert [(row.answers, row.lang, row.meta["split"]) for row in found if isinstance(row, Example)] == [
        (("two",), "de", "test")
    ]
    with pytest.raises(DataError, match=r"--split val: none of val\.txt"):
        list(rows_of("flickr30k", token, images=folder, split="val"))
    karpathy = next(form for form in FORMATS if form.name == "karpathy")
    path = karpathy.write(folder, karpathy.rows)
    assert len(list(rows_of("karpathy", path, images=folder, split="test"))) == 1
    assert list(rows_of("karpathy", path, images=folder, split="train")) == []
    path.write_text(path.read_text().replace('"test"', '"restval"'))
    assert len(list(rows_of("karpathy", path, images=folder, split="train"))) == 1


def test_a_dataset_with_its_rejects_and_manifest(folder: Path, tmp_path: Path) -> None:
    coco = FORMATS[0]
    path = coco.write(folder, coco.rows)
    made = import_dataset("coco", path, images=folder, out=tmp_path / "out")
    assert (made["records"], made["rejects"]) == (1, len(BAD_NAMES))
    assert made["by_task_and_lang"] == {"caption/en": 1}
    assert set(made["files"]) == {"records-00000.parquet"}
    assert list(made["inputs"]) == [str(path)]
    rejects = (tmp_path / "out/rejects.jsonl").read_text().splitlines()
    assert "leads out" in json.loads(rejects[2])["reason"]
    assert len(list(iter_records(tmp_path / "out"))) == 1
    import_dataset("coco", path, images=folder, out=tmp_path / "out", form="jsonl")
    assert not list((tmp_path / "out").glob("*.parquet")), "the earlier import is replaced"
    with pytest.raises(DataError, match="none of 1 rows can be used; the first: captions_val2014"):
        import_dataset("coco", coco.write(folder, [{}]), images=folder, out=tmp_path / "out")
    assert len(list(iter_records(tmp_path / "out"))) == 1, "a failed import leaves the earlier one"
    with pytest.raises(ConfigError, match="not an earlier dataset"):
        import_dataset("coco", path, images=folder, out=folder)
    with pytest.raises(ConfigError, match="did you mean 'coco'"):
        import_dataset("cocoo", path, out=tmp_path / "other")


def test_datasets_of_the_hub_library(folder: Path, tmp_path: Path) -> None:
    import datasets

    rows = {"img": [JPEG.getvalue(), b"none"], "q": ["What?", "Bad."], "a": [["red", "blue", "red"], ["x"]]}
    made = datasets.Dataset.from_dict(
        {**rows, "img": [{"bytes": data, "path": None} for data in rows["img"]]}
    )
    made = made.cast_column("img", datasets.Image())
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "one.parquet")
    columns = {"image": "img", "question": "q", "answers": "a"}
    for path in (tmp_path / "saved", tmp_path / "one.parquet"):
        good, bad = rows_of("hub", path, columns=columns, lang="fr")
        assert isinstance(good, Example)
        assert (good.image, good.lang, good.task) == (ImageRef(bytes=JPEG.getvalue()), "fr", "vqa")
        assert [turn.content for turn in good.messages] == ["What?", "red"]
        assert isinstance(bad, Reject)
        assert "not a readable image" in bad.reason
    (tmp_path / "chat.jsonl").write_text(json.dumps({"m": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}) + "\n")  # fmt: skip
    (dialogue,) = rows_of("hub", tmp_path / "chat.jsonl", columns={"messages": "m"})
    assert isinstance(dialogue, Example)
    assert dialogue.task == "text"
    for columns, text in (
        ({"image": "imgs"}, "no column 'imgs'; did you mean 'img'"),
        ({"picture": "img"}, "found 'picture'"),
        ({}, "found none"),
    ):
        with pytest.raises(DataError, match=text):
            list(rows_of("hub", tmp_path / "one.parquet", columns=columns))


def test_muges_two_alphabets_and_a_tar_that_is_cut_off(tmp_path: Path) -> None:
    data = JPEG.getvalue()
    plain, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert plain != safe
    (tmp_path / "val_imgs.tsv").write_text(f"1\t{plain}\n2\t{safe}\n")
    (tmp_path / "val_texts.jsonl").write_text('{"text_id": 1, "text": "红", "image_ids": [1, 2]}\n')
    found = list(rows_of("muge", tmp_path, split="val"))
    assert [one.image for one in found if isinstance(one, Example)] == [ImageRef(bytes=data)] * 2
    form = next(form for form in FORMATS if form.name == "webdataset")
    path = form.write(tmp_path, form.rows)
    whole = path.read_bytes()
    for length, text in ((800, "cannot be read from here on"), (2560, "cut off"), (2600, "cut off")):
        path.write_bytes(whole[:length])
        found = list(rows_of("webdataset", path))
        assert isinstance(found[-1], Reject)
        assert text in found[-1].reason
