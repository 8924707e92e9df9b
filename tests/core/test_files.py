"""Files and records: what a kill, a bad line or a strange value would lose."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziya_visual.core import files
from ziya_visual.core.errors import DataError, nearest
from ziya_visual.core.records import Box, Example, ImageRef, Message, Provenance, example_from_dict, to_dict

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
EXAMPLES = st.builds(
    Example,
    id=TEXT,
    lang=st.sampled_from(["en", "zh"]),
    task=st.sampled_from(["caption", "vqa", "dialogue"]),
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=TEXT), max_size=3
    ).map(tuple),
    image=st.none() | st.builds(ImageRef, path=TEXT),
    answers=st.lists(TEXT, max_size=2).map(tuple),
    boxes=st.lists(st.builds(Box, label=TEXT, xyxy=st.just((0.0, 1.0, 2.0, 3.0))), max_size=2).map(tuple),
    meta=st.dictionaries(TEXT, TEXT, max_size=2),
    provenance=st.builds(Provenance, checks=st.lists(TEXT, max_size=2).map(tuple)),
)


@given(EXAMPLES)
def test_a_record_survives_json(example: Example) -> None:
    assert example_from_dict(json.loads(json.dumps(to_dict(example)))) == example


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"task": "vqaa"}, "task 'vqaa' is not one of"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "is not a message"),
        ({"messages": "x"}, "messages is str, expected a list"),
        ({"colour": 1}, r"unknown fields \['colour'\]"),
        ({"image": {}}, "either a path or bytes"),
        ({"boxes": [{"label": "a", "xyxy": [1, 2]}]}, "four numbers"),
    ],
)
def test_what_is_no_record_is_refused_by_name(change: dict, text: str) -> None:
    row = {"id": "1", "lang": "en", "task": "vqa", "messages": []}
    with pytest.raises(DataError, match=text):
        example_from_dict({**row, **change})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": "中"})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": "中"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "ckpt"
    for text in ("old", "new"):
        with files.atomic_dir(target) as aside:
            (aside / "f").write_text(text)
    with pytest.raises(RuntimeError), files.atomic_dir(target) as aside:  # noqa: PT012
        (aside / "f").write_text("half")
        raise RuntimeError
    assert (target / "f").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt"]


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"id": 1}\n\nnot json\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: line 3 is not JSON"):
        list(files.read_jsonl(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        files.read_text(path)
    with pytest.raises(DataError, match="cannot be read"):
        files.read_json(tmp_path / "absent")


def test_nearest_names_the_likely_key() -> None:
    assert nearest("step", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert nearest("zzz", ["steps", "seed"]) == "; known: seed, steps"
