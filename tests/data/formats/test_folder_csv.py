"""People's own folders: every row becomes a record or a reject with its line and reason."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.data.formats.folder_csv import read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    return tmp_path


def write(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("image", "lang", "text")) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    (folder / "captions.csv").write_text("\ufeff" + buffer.getvalue(), encoding="utf-8")


def test_rows_are_records_or_rejects_with_a_reason(folder: Path) -> None:
    rows = [
        ("a.png", "en", "a cat"),
        ("a.png", "zh", "一只猫"),
        ("b.png", "en", "x"),
        ("broken.png", "en", "x"),
    ]
    write(folder, *rows, ("out.png", "en", "x"), ("../up.png", "en", "x"), ("a.png", "", "x"), ("a.png",))
    found = read_folder(folder)
    assert [(e.lang, e.messages[0].content, e.image_id) for e in found.examples] == [
        ("en", "a cat", "a.png"),
        ("zh", "一只猫", "a.png"),
    ]
    reasons = [reject.reason for reject in found.rejects]
    for reason, text in zip(
        reasons,
        ["cannot be read", "not a readable", "leads out", "leads out", "empty lang", "empty lang, text"],
        strict=True,
    ):
        assert text in reason
    assert found.rejects[0].where == "captions.csv:4"


def test_what_is_no_table_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="needs the columns image, lang, text"):
        read_folder(folder)
    write(folder, ("a.png", "x"), header=("image", "caption"))
    with pytest.raises(DataError, match="no column lang, text"):
        read_folder(folder)
    write(folder, ("b.png", "en", "x"))
    with pytest.raises(DataError, match=r"none of 1 rows can be used; the first: captions\.csv:2"):
        read_folder(folder)


NAMES = st.sampled_from(["a.png", "b.png", "\0", "../x", "a.png/.."])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(NAMES, TEXT, TEXT), max_size=8))
@settings(max_examples=60)
def test_rows_in_are_rows_out_and_rejected(rows: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", (8, 8), "red").save(folder / "a.png")
        write(folder, ("a.png", "en", "always one"), *rows)
        found = read_folder(folder)
        assert len(found.examples) + len(found.rejects) == len(rows) + 1
