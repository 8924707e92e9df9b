"""Who may ask, how much at once, and what is said when it is too much, too late or a fault."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from asking import HEADERS, JSON, about, uri

from ziya_visual.core.errors import ConfigError
from ziya_visual.infer import scheduler
from ziya_visual.infer.decoder import Decoder
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.scheduler import BusyError, Scheduler
from ziya_visual.serve.api import create_app
from ziya_visual.serve.guard import refuse_taken


def test_who_may_ask_and_how_much(url: str, model: ZiyaVisual, serve_app: Any) -> None:
    path = f"{url}/v1/chat/completions"
    assert httpx.post(path, content=b"x" * 33_000_000, headers=HEADERS).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(330):
            yield b"x" * 100_000

    with httpx.Client() as some:
        assert some.post(path, content=endless(), headers=JSON | HEADERS).status_code == 413
    refused = httpx.options(
        path, headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in refused.headers
    with serve_app(create_app(model, name="open")) as address:
        assert httpx.get(f"{address}/v1/models").status_code == 200
        rebound = httpx.get(f"{address}/v1/models", headers={"Host": "evil.example"})
        assert rebound.status_code == 403
        assert "loopback" in rebound.json()["error"]["message"]


def test_a_port_that_another_process_has_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = rf"127\.0\.0\.1, port {port} \(Address already in use\); give another with --port"
        with pytest.raises(ConfigError, match=said):
            refuse_taken("127.0.0.1", port)
    refuse_taken("127.0.0.1", port)


def test_a_full_queue_says_when_to_come_again(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise BusyError("many requests are waiting already")

    monkeypatch.setattr(Scheduler, "submit", full)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="tiny", messages=about(uri(), "x"))
    assert caught.value.response.headers["retry-after"] == "2"


def test_a_fault_in_a_step_is_told_and_does_not_end_the_server(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": about(uri(), "x"), "max_tokens": 30}
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "step", lambda _: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            client.chat.completions.create(**ask)
    assert client.chat.completions.create(**ask).choices[0].message.content


def test_an_answer_that_takes_too_long_is_given_up(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LIMIT_SECONDS", 0.0)
    with pytest.raises(openai.InternalServerError, match="not done within"):
        client.chat.completions.create(model="tiny", messages=about(uri(), "x"), max_tokens=400)
