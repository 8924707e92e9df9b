"""Files of other systems: whatever form they have, they are read, or refused in one line."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval.rows import answer_of, by_id, match_ids, read_arrays, read_object, read_rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"a": 1}, {"a": 2}]', 2),
        ('[\n {"a": 1},\n {"a": 2}\n]\n', 2),
        ('{"a": 1}\n{"a": 2}\n', 2),
        ('{"a": 1}\r\n\r\n{"a": 2}\r\n', 2),
        ('\ufeff{"a": 1}', 1),
        ('{"a": "line\u2028separator"}\n{"a": 2}', 2),
    ],
)
@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_reads_lists_and_lines_under_either_name(tmp_path: Path, name: str, text: str, rows: int) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert len(read_rows(path)) == rows


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with ''"),
        (b"image_id,caption\n1,x\n", "starts with 'i'"),
        (b"{", "is not JSON"),
        (b'{"a": 1}\n{"a": 2', "line 2 is not JSON"),
        (b"[1, 2]", "row 0 is int, expected an object"),
        (b"[]", "has no rows"),
        ('[{"a": "é"}]'.encode("utf-16"), "not UTF-8"),
        ('[{"a": "\u72d7"}]'.encode("gbk"), "not UTF-8 at byte"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_rows(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_says_what_it_found_in_place_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n "questions": []\n}')
    with pytest.raises(
        DataError, match=r"found keys \['questions'\], expected an object with a non-empty list"
    ):
        read_object(path, "annotations")


def test_ids_are_the_same_as_numbers_and_as_text(tmp_path: Path) -> None:
    rows, failures = [{"id": 7, "x": 1}, {"id": "7", "x": 2}], Counter[str]()
    with pytest.raises(DataError, match="duplicate id 7; make ids unique"):
        by_id(rows, "id", tmp_path, failures=failures)
    assert by_id(rows, "id", tmp_path, failures=failures, duplicates="last")["7"]["x"] == 2
    assert failures == {"duplicate": 1}
    with pytest.raises(ConfigError, match="'best' is not one of refuse, first, last"):
        by_id(rows, "id", tmp_path, failures=failures, duplicates="best")
    with pytest.raises(DataError, match="'id' is NoneType"):
        by_id([{"id": None}], "id", tmp_path, failures=failures)
    with pytest.raises(DataError, match="'id' is NaN"):
        by_id([{"id": float("nan")}], "id", tmp_path, failures=failures)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 1 ids is among the 2 expected"):
        match_ids(["a", "b"], {"z": {}}, tmp_path, Counter())


def test_says_nothing_in_four_ways(tmp_path: Path) -> None:
    failures = Counter[str]()
    said = [None, {"x": None}, {"x": float("nan")}, {"x": " \n"}, {"x": 2}]
    assert [answer_of(row, "x", tmp_path, failures) for row in said] == [None, None, None, " \n", "2"]
    assert failures == {"missing": 2, "empty": 1}


def _saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_arrays_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    good, alone = _saved(image=np.random.default_rng(0).random((40, 40))), io.BytesIO()
    np.save(alone, np.eye(2))
    pickled = _saved(image=np.array([{}], dtype=object))
    torn = good[:-30], good[:200] + bytes(2000) + good[2200:]
    for data in (b"", b"{}", b"PK\x03\x04rest", alone.getvalue(), pickled, *torn):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not a readable NPZ file") as error:
            read_arrays(path, ["image"])
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="not a readable NPZ file"):
        read_arrays(tmp_path, ["image"])
