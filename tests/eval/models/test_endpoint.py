"""A model behind an OpenAI-compatible endpoint is measured as the same checkpoint in a folder is."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import folders
import pytest
import uvicorn
from json_server import JsonServer, completion
from PIL import Image

from ziya_visual.core.errors import ConfigError, EndpointError
from ziya_visual.core.files import read_json, read_jsonl
from ziya_visual.eval import run
from ziya_visual.eval.models import open as models
from ziya_visual.eval.run import run_suite
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.serve.api import create_app


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    folders.ours(folder)
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.suite(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def served(checkpoint: Path) -> Iterator[tuple[str, uvicorn.Server]]:
    """Our own server over real HTTP."""
    app = create_app(ZiyaVisual.from_pretrained(checkpoint), name="tiny")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        pass
    yield f"tiny@http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1", server
    server.should_exit = True
    thread.join()


def test_the_same_numbers_as_the_folder_and_nothing_is_sent_twice(
    checkpoint: Path,
    suite: Path,
    served: tuple[str, uvicorn.Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(run.MAX_NEW_TOKENS, "caption", 24)  # the tiny model has a short context
    model, server = served
    local = run_suite(checkpoint, suite, out=tmp_path / "local")
    remote = run_suite(model, suite, out=tmp_path / "remote")
    said = {}
    for name in ("local", "remote"):
        files = sorted((tmp_path / name / "predictions").glob("*.jsonl"))
        said[name] = [row["prediction"] for path in files for _, row in read_jsonl(path)]
    assert said["remote"] == said["local"]
    assert len(set(said["local"])) > 6, "the answers depend on picture and question"
    wanted = [row for row in local["metrics"] if row["task"] in ("vqa", "caption")]
    assert remote["metrics"] == wanted
    assert (remote["card"]["model"], remote["card"]["kind"]) == ("tiny", "endpoint")
    server.should_exit = True  # whatever is sent now is refused
    again = run_suite(model, suite, out=tmp_path / "remote")
    assert again["metrics"] == remote["metrics"]


class Picky(JsonServer):
    """Says "red" of small pictures, refuses what begins with a word, keeps what it is asked."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.bodies: list[dict[str, Any]] = []
        super().__init__()

    def answer(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
        with self.lock:
            self.bodies.append(body)
        image, text = body["messages"][0]["content"]
        if self.refused and text["text"].startswith(self.refused):
            return 400, {}, '{"error": {"message": "no, I will not"}}'
        data = image["image_url"]["url"].partition("base64,")[2]
        size = Image.open(io.BytesIO(base64.b64decode(data))).size
        return 200, {}, completion("red" if size == (16, 16) else "blue")


def test_refusals_are_wrong_and_counted(suite: Path, tmp_path: Path) -> None:
    server = Picky(refused="what")
    content = run_suite(f"some-model@{server.url}", suite, out=tmp_path)
    server.close()
    found = {(row["lang"], row["task"], row["name"]): row for row in content["metrics"]}
    assert found["en", "vqa", "accuracy"]["value"] == pytest.approx(100 * 5 / 12, abs=1e-3)
    assert found["zh", "vqa", "accuracy"]["value"] == pytest.approx(100 * 10 / 12, abs=1e-3)
    assert content["card"]["failures"]["no answer"] == {"http_400": 12}, "6 questions, 6 captions"
    assert content["card"]["failures"]["new.en.vqa"] == {"empty": 6}
    assert read_json(tmp_path / "results.json")["card"]["failures"] == content["card"]["failures"]
    assert "12 http 400" in (tmp_path / "report.html").read_text("utf-8")
    body = server.bodies[0]
    assert (body["model"], body["temperature"], set(body)) == (
        "some-model",
        0,
        {"model", "messages", "max_tokens", "temperature"},
    )


def test_the_ledger_holds_no_pictures(suite: Path, tmp_path: Path) -> None:
    server = Picky()
    run_suite(f"m@{server.url}", suite, out=tmp_path)
    server.close()
    assert b"base64," not in (tmp_path / "ledger.sqlite").read_bytes()


def test_an_endpoint_that_is_not_there_is_one_line(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Picky()
    server.close()
    monkeypatch.setattr(models, "Sending", partial(models.Sending, backoff_seconds=0.01))
    with pytest.raises(EndpointError, match="run the same command again") as told:
        run_suite(f"m@{server.url}", suite, out=tmp_path)
    assert "\n" not in str(told.value)


def test_what_is_an_endpoint(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="needs a key: set the environment variable OPENAI_API_KEY"):
        run_suite("m@https://example.com/v1", suite, out=tmp_path)
    with pytest.raises(ConfigError, match="--dtype int8 works with our checkpoints only"):
        run_suite("m@https://example.com/v1", suite, out=tmp_path, dtype="int8")
