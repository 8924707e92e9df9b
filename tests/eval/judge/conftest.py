"""A judge on loopback for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from judge_server import JudgeServer, by_length


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = JudgeServer(by_length)
    yield server
    server.close()
