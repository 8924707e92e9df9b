"""A tiny model behind real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import openai
import pytest
import uvicorn
from tiny_models import talking

from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.serve.api import create_app

KEY = "sesame"


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
def model() -> ZiyaVisual:
    return talking()


@pytest.fixture(scope="package")
def url(model: ZiyaVisual) -> Iterator[str]:
    with served(create_app(model, name="tiny", api_key=KEY)) as address:
        yield address


@pytest.fixture(scope="package")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
