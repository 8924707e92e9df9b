"""The server over real HTTP, asked by the ``openai`` client as anybody would."""

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
import uvicorn
from PIL import Image
from transformers import Blip2VisionConfig, Blip2VisionModel, LlamaConfig, LlamaForCausalLM

from ziya_visual.core.errors import ConfigError, EndpointError
from ziya_visual.core.records import Message
from ziya_visual.data.chat_format import Turn
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.compose import compose
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.serve.api import create_app, running_server, serve
from ziya_visual.train.pretrain_lm import corpus_texts, train_tokenizer


def tiny_model() -> ZiyaVisual:
    tokenizer = train_tokenizer(corpus_texts(np.random.default_rng(0), 30))
    torch.manual_seed(0)
    vision = Blip2VisionModel(
        Blip2VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
            initializer_range=0.02,
        )
    )
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=0.3,
            attn_implementation="plain",
        )
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    model, alignment = compose(
        vision=vision,
        language_model=llama,
        tokenizer=tokenizer,
        qformer={**sizes, "cross_attention_frequency": 1},
        num_query_tokens=4,
        projection_size=16,
        seed=0,
    )
    return ZiyaVisual(model, alignment, ZiyaProcessor(tokenizer, image_size=16, num_query_tokens=4))


@pytest.fixture(scope="module")
def model() -> ZiyaVisual:
    return tiny_model()


@pytest.fixture(scope="module")
def url(model: ZiyaVisual) -> Iterator[str]:
    config = uvicorn.Config(create_app(model, name="tiny", api_key="sesame"), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        pass
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0)


def uri(color: str = "red", kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def about(picture: str, question: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


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
        ([], {}, "at least one message"),
        ([{"role": "user", "content": "  "}], {}, "not empty"),
        ([{"role": "boss", "content": "x"}], {}, "role must be one of"),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "text or image_url"),
        (about("http://127.0.0.1/cat.png", "x"), {}, "data: URIs"),
        (about("file:///etc/passwd", "x"), {}, "data: URIs"),
        (about("data:image/png;base64,%%%", "x"), {}, "base64 is broken"),
        (about("data:image/png;base64,aGVsbG8=", "x"), {}, "no picture"),
        ([{"role": "user", "content": "x"}], {"max_tokens": 0}, "'max_tokens' must be a number"),
        ([{"role": "user", "content": "x"}], {"temperature": 9}, "'temperature' must be a number"),
        ([{"role": "user", "content": "word " * 600}], {}, "the model's context 512"),
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


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"no config\.json there"), running_server(tmp_path):
        pass


def test_a_character_is_never_cut_in_half(model: ZiyaVisual) -> None:
    picture, asked = Image.new("RGB", (16, 16)), [Message("user", "说")]
    pieces = list(model.stream(picture, asked, max_new_tokens=60))
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    whole = model.chat_about(picture, asked, max_new_tokens=60)
    assert whole.rstrip("\ufffd").startswith("".join(pieces).rstrip("\ufffd"))
    assert len(pieces) > 5
