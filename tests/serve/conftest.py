"""A tiny model behind real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import openai
import pytest
import torch
import uvicorn
from transformers import Blip2VisionConfig, Blip2VisionModel, LlamaConfig, LlamaForCausalLM

from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.compose import compose
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.serve.api import create_app
from ziya_visual.train.pretrain_lm import corpus_texts, train_tokenizer

KEY = "sesame"


def tiny_model(context: int = 512) -> ZiyaVisual:
    """Of random weights, 4 queries, pictures of 16 pixels."""
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
            max_position_embeddings=context,
            initializer_range=0.3,
            attn_implementation="inference",
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


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application that runs in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        pass
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="package")
def serve_app() -> Callable[[Any], AbstractContextManager[str]]:
    return served


@pytest.fixture(scope="package")
def make_tiny() -> Callable[..., ZiyaVisual]:
    return tiny_model


@pytest.fixture(scope="package")
def model() -> ZiyaVisual:
    return tiny_model()


@pytest.fixture(scope="package")
def url(model: ZiyaVisual) -> Iterator[str]:
    with served(create_app(model, name="tiny", api_key=KEY)) as address:
        yield address


@pytest.fixture(scope="package")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
