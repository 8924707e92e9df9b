"""The server over real HTTP, asked by the ``openai`` client as anybody would."""

import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from asking import HEADERS, about, uri
from PIL import Image

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.serve.server import serve


def test_an_answer_is_the_models_own(client: openai.OpenAI, model: ZiyaVisual) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=about(uri(), "红色?"), max_tokens=12, temperature=0
    )
    assert said.choices[0].message.content == model.chat(
        Image.new("RGB", (16, 16), "red"), "红色?", max_new_tokens=12
    )
    assert said.usage is not None
    assert said.usage.completion_tokens <= 12
    assert said.choices[0].finish_reason in ("stop", "length")


def test_several_pictures_are_looked_at_together(client: openai.OpenAI, model: ZiyaVisual) -> None:
    pictures = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    parts = about(uri("red"), "What?")[0]["content"] + about(uri("blue"), "圆环")[0]["content"]
    said = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": parts}], max_tokens=12
    )
    turn = Turn("user", "What?\n圆环", (0, 5))
    assert said.choices[0].message.content == model.chat_about(pictures, [turn], max_new_tokens=12)
    assert said.usage is not None
    prompt = model.format.encode([turn], num_image_tokens=4, num_images=2, add_generation_prompt=True)
    assert said.usage.prompt_tokens == len(prompt.ids)


def test_streams_interleave_and_give_the_same_text(client: openai.OpenAI, model: ZiyaVisual) -> None:
    questions = [
        about(uri("blue"), "What?"),
        [{"role": "user", "content": "圆环是什么颜色？"}],
        about(uri(), "hi"),
    ]
    streams = [
        client.chat.completions.create(
            model="tiny", messages=q, max_tokens=40, stream=True, stream_options={"include_usage": True}
        )
        for q in questions
    ]
    texts = ["" for _ in streams]
    usages = [0 for _ in streams]
    live = list(range(len(streams)))
    while live:
        for number in list(live):
            chunk = next(streams[number], None)
            if chunk is None:
                live.remove(number)
            elif chunk.choices:
                texts[number] += chunk.choices[0].delta.content or ""
            else:
                usages[number] = chunk.usage.completion_tokens
    for text, messages in zip(texts, questions, strict=True):
        whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=40)
        assert text == whole.choices[0].message.content
    assert all(0 < used <= 40 for used in usages)


def test_a_stop_string_ends_the_answer_and_is_not_shown(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": about(uri(), "go"), "max_tokens": 30}
    whole = client.chat.completions.create(**ask).choices[0].message.content or ""
    stop = whole[5:8]
    cut = client.chat.completions.create(**ask, stop=[stop]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_a_caller_that_goes_away_frees_its_slot(client: openai.OpenAI, url: str) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=about(uri(), "long"), max_tokens=400, stream=True
    )
    next(stream)
    stream.close()
    for _ in range(200):
        if httpx.get(f"{url}/health").json()["active"] == 0:
            return
        threading.Event().wait(0.05)
    pytest.fail("the slot is still taken after ten seconds")


@pytest.mark.parametrize(
    ("messages", "extra", "text"),
    [
        ([], {}, "messages: List should have at least 1 item"),
        ([{"role": "user", "content": "  "}], {}, "not empty"),
        ([{"role": "boss", "content": "x"}], {}, "messages.0.role: Input should be 'system'"),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "'text', 'image_url'"),
        (about("http://127.0.0.1/cat.png", "x"), {}, "must be data: URIs"),
        (about("file:///etc/passwd", "x"), {}, "must be data: URIs"),
        (about("data:image/png;base64,%%%", "x"), {}, "base64 is broken"),
        (about("data:image/png;base64,aGVsbG8=", "x"), {}, "not a readable image"),
        (
            [{"role": "user", "content": "x"}],
            {"max_tokens": 0},
            "max_tokens: Input should be greater",
        ),
        (
            [{"role": "user", "content": "x"}],
            {"temperature": 9},
            "temperature: Input should be less",
        ),
        ([{"role": "user", "content": "word " * 600}], {}, "the model's context 512"),
        ([{"role": "user", "content": "x"}], {"top_logprobs": 2}, "needs logprobs"),
        ([{"role": "user", "content": "x"}], {"presence_penalty": 1.0}, "presence_penalty"),
        ([{"role": "user", "content": "x"}], {"n": 99}, "n: Input should be less than or equal to 16"),
    ],
)
def test_bad_requests_are_told_so(client: openai.OpenAI, messages: Any, extra: Any, text: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=messages, **extra)
    assert text in str(caught.value)


def test_unknown_models_keys_and_bodies(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    assert [m.id for m in client.models.list()] == ["tiny"]
    header = {"Authorization": "Bearer sesame"}
    assert httpx.post(f"{url}/v1/chat/completions", content=b"{", headers=header).status_code == 400
    assert "ziya_visual_active" in httpx.get(f"{url}/metrics").text


def test_a_public_address_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--api-key-env"):
        serve(tmp_path, host="0.0.0.0")
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_KEY is empty"):
        serve(tmp_path, api_key_env="NO_KEY")


def test_a_character_is_never_cut_in_half(model: ZiyaVisual) -> None:
    picture, asked = Image.new("RGB", (16, 16)), [Message("user", "说")]
    pieces = list(model.stream(picture, asked, max_new_tokens=60))
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    whole = model.chat_about(picture, asked, max_new_tokens=60)
    assert whole.rstrip("\ufffd").startswith("".join(pieces).rstrip("\ufffd"))
    assert len(pieces) > 5


def test_several_answers_are_each_their_seeds(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": about(uri(), "go"), "max_tokens": 12}
    three = client.chat.completions.create(**ask, n=3, temperature=1.5, seed=7)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    second = client.chat.completions.create(**ask, temperature=1.5, seed=8)
    assert second.choices[0].message.content == texts[1]
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**ask, n=3, temperature=1.5, seed=7, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert three.usage is not None
    assert three.usage.completion_tokens > 12


def test_log_probabilities_say_how_sure_each_token_is(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": about(uri(), "go"), "max_tokens": 9}
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3).choices[0]
    assert whole.logprobs is not None
    tokens = whole.logprobs.content
    assert tokens is not None
    assert len(tokens) == 9
    for token in tokens:
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob), (
            "a greedy token is the likeliest"
        )
        assert [one.logprob for one in token.top_logprobs] == sorted(
            (one.logprob for one in token.top_logprobs), reverse=True
        )
        assert bytes(token.bytes or []) == token.token.encode()
    parts: list[Any] = []
    for chunk in client.chat.completions.create(**ask, logprobs=True, top_logprobs=3, stream=True):
        found = chunk.choices[0].logprobs
        parts += (found.content or []) if found else []
    assert [part.token for part in parts] == [token.token for token in tokens]
    assert client.chat.completions.create(**ask).choices[0].logprobs is None


def test_embeddings_are_those_of_the_retrieval_side(client: openai.OpenAI, model: ZiyaVisual) -> None:
    red = Image.new("RGB", (16, 16), "red")
    text, image = model.embed(["a red ring", red])
    for encoding in ({}, {"encoding_format": "float"}):
        found = client.embeddings.create(model="tiny", input=["a red ring", uri("red")], **encoding)  # type: ignore[arg-type]
        assert found.usage.prompt_tokens == len(model.format.text_ids("a red ring"))
        assert np.allclose(found.data[0].embedding, text, atol=1e-6)
        shape = found.data[1].model_extra["shape"] if found.data[1].model_extra else None
        assert shape == [4, 16]
        assert np.allclose(np.reshape(found.data[1].embedding, shape), image, atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="not a readable image"):
        client.embeddings.create(model="tiny", input=["data:image/png;base64,aGVsbG8="])


def test_a_second_turn_encodes_nothing_again(client: openai.OpenAI, url: str) -> None:
    def encoded() -> int:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return next(
            int(float(line.split()[1])) for line in lines if line.startswith("ziya_visual_pictures_encoded")
        )

    first = about(uri("#123456"), "What?")
    said = client.chat.completions.create(model="tiny", messages=first, max_tokens=8)
    before = encoded()
    more = [*first, {"role": "assistant", "content": said.choices[0].message.content}]
    more.append({"role": "user", "content": "红色?"})
    client.chat.completions.create(model="tiny", messages=more, max_tokens=8)
    assert encoded() == before > 0


def test_messages_as_langchain_and_llamaindex_write_them(url: str) -> None:
    """With the keys that they add; what they leave at its default is no reason to refuse."""
    picture = {"url": uri(), "detail": "auto"}
    bodies: list[dict[str, Any]] = [
        {
            "messages": [
                {"content": "You see pictures.", "role": "system"},
                {
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image_url", "image_url": picture},
                    ],
                    "role": "user",
                },
            ],
            "model": "tiny",
            "n": 1,
            "stream": False,
            "temperature": 0.7,
            "max_completion_tokens": 5,
        },
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None},
                {"role": "assistant", "content": "hello", "refusal": None},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": picture},
                        {"type": "text", "text": "What?"},
                    ],
                },
            ],
            "model": "tiny",
            "max_tokens": 5,
            "temperature": 0.1,
            "stream": False,
            "user": "somebody",
            "tools": [],
            "logit_bias": {},
            "presence_penalty": 0,
            "frequency_penalty": 0.0,
            "response_format": {"type": "text"},
        },
    ]
    for body in bodies:
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=HEADERS)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["role"] == "assistant"
