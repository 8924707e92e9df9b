"""Endpoints that see, and dialogues made in one language and translated into another."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from json_server import JsonServer, completion
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_examples, read_jsonl, write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.instruct import instruct
from ziya_visual.forge.run import run_instruct
from ziya_visual.forge.translate import translate

ENGLISH = {"turns": [{"question": "What is on the mat?", "answer": "A grey cat is on the mat."}]}
CHINESE = ["垫子上有什么？", "垫子上有一只灰色的猫。"]


class Seeing(JsonServer):
    """Keeps what it is sent; ``replies`` are given in turn, the last for good."""

    def __init__(self) -> None:
        self.contents: list[Any] = []
        self.replies: list[Any] = []
        super().__init__()

    def answer(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
        with self.lock:
            reply = self.replies[min(len(self.contents), len(self.replies) - 1)]
            self.contents.append(body["messages"][0]["content"])
        return 200, {}, completion(json.dumps(reply, ensure_ascii=False))


@pytest.fixture
def seeing() -> Iterator[Seeing]:
    server = Seeing()
    yield server
    server.close()


def captioned(folder: Path, kind: str = "png") -> Example:
    path = folder / f"cat.{kind}"
    Image.new("RGB", (8, 6), "grey").save(path)
    said = (Message("assistant", "A grey cat sits on a mat."),)
    return Example("c", "en", "caption", said, image=ImageRef(path=str(path)), image_id="i")


def shown(content: Any) -> bytes:
    text, picture = content
    assert text["type"] == "text"
    head, data = picture["image_url"]["url"].split(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return base64.b64decode(data)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_the_picture_itself_is_shown_where_it_is_asked_for(seeing: Seeing, tmp_path: Path, kind: str) -> None:
    example = captioned(tmp_path, kind)
    seeing.replies = [{"turns": [{"question": CHINESE[0], "answer": CHINESE[1]}]}]
    options: dict[str, Any] = {"kinds": ["conversation"], "lang": "zh", "sending": Sending("m", seeing.url)}
    assert instruct([example], out=tmp_path / "a", show_image=True, **options)["accepted"] == 1
    assert example.image is not None
    assert shown(seeing.contents[0]) == Path(str(example.image.path)).read_bytes()
    instruct([example], out=tmp_path / "b", **options)
    assert isinstance(seeing.contents[1], str), "not shown unless it is asked for"


def test_a_picture_that_cannot_be_shown_is_named(seeing: Seeing, tmp_path: Path) -> None:
    seeing.replies = [ENGLISH]
    gone = captioned(tmp_path)
    (tmp_path / "cat.png").unlink()
    without = Example("d", "en", "caption", gone.messages, image_id="j")
    for example, text in ((gone, "cat.png: not an image"), (without, "'j' has no image path")):
        with pytest.raises(DataError, match=text):
            instruct(
                [example],
                lang="en",
                out=tmp_path / example.id,
                sending=Sending("m", seeing.url),
                show_image=True,
            )
    assert not seeing.contents, "nothing was paid for"


@pytest.mark.parametrize(("ok", "rejected"), [(True, {}), (False, {"image": 1})])
def test_the_image_check_looks_at_the_picture(
    seeing: Seeing, tmp_path: Path, ok: bool, rejected: dict[str, int]
) -> None:
    seeing.replies = [{"translations": ["一只灰色的猫坐在垫子上。"]}, {"ok": ok, "why": "it is a dog"}]
    report = translate(
        [captioned(tmp_path)], to="zh", out=tmp_path / "out", sending=Sending("m", seeing.url),
        extra_checks=("image",),
    )  # fmt: skip
    assert report.rejected == rejected
    assert report.accepted == ok
    assert shown(seeing.contents[1]) == (tmp_path / "cat.png").read_bytes()
    assert "一只灰色的猫坐在垫子上。" in seeing.contents[1][0]["text"]
    if not ok:
        ((_, row),) = read_jsonl(tmp_path / "out" / "rejected.jsonl")
        assert row["reasons"] == ["image: it is a dog"]


def test_dialogues_are_made_in_one_language_and_translated(seeing: Seeing, tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", [captioned(tmp_path)])
    seeing.replies = [ENGLISH, {"translations": CHINESE}]
    options: dict[str, Any] = {"lang": "zh", "sending": Sending("m", (seeing.url,)), "through": "en"}
    options |= {"kinds": ["conversation"], "show_image": True, "turns": 3, "prompt": "instruct"}
    found = run_instruct(tmp_path / "in.jsonl", out=tmp_path / "out", dry_run=False, **options)
    assert (found["accepted"], found["translated"]) == (1, 1)
    assert isinstance(seeing.contents[0], list), "made with the picture"
    assert isinstance(seeing.contents[1], str), "translated without"
    (first,) = read_examples(tmp_path / "out" / "en" / "accepted.jsonl")
    (second,) = read_examples(tmp_path / "out" / "accepted.jsonl")
    assert [m.content for m in first.messages] == list(ENGLISH["turns"][0].values())
    assert [m.content for m in second.messages] == CHINESE
    assert (second.lang, second.task, second.image_id) == ("zh", "dialogue", "i")
    assert second.provenance.translated_from == first.id
    run_instruct(tmp_path / "in.jsonl", out=tmp_path / "out", dry_run=False, **options)
    assert len(seeing.contents) == 2, "paid once"
