"""lmms-eval's chat-model interface (0.7.3), stood in for by the few names of it that the adapter uses."""

from __future__ import annotations

import abc
import importlib
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import folders
import pytest
import tiny

from ziya_visual.core.errors import DataError


class Lmms(abc.ABC):
    """``lmms_eval.api.model.lmms``: what its own constructor sets, and its three abstract methods."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


@dataclass(frozen=True)
class ModelManifest:
    """``lmms_eval.models.registry_v2.ModelManifest``."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


@pytest.fixture(scope="module")
def adapter() -> Iterator[Any]:
    """The module as lmms-eval would import it."""
    made = {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Lmms}}
    made |= {"lmms_eval.models": {}, "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest}}
    with pytest.MonkeyPatch.context() as patch:
        for name, content in made.items():
            module = ModuleType(name)
            module.__dict__.update(content)
            patch.setitem(sys.modules, name, module)
        yield importlib.import_module("ziya_visual.eval.models.lmms_eval")
    sys.modules.pop("ziya_visual.eval.models.lmms_eval")


@pytest.fixture(scope="module")
def model(adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ours")
    folders.ours(folder)
    made = adapter.ZiyaVisualLmms(pretrained=str(folder), batch_size=1, device="cpu")
    shown = [tiny.picture(seed) for seed in range(3)]
    made.task_dict["t"] = {"test": [
        {"pictures": shown[:1], "text": "ring?"},
        {"pictures": shown[1:2], "text": tiny.QUESTION},
        {"pictures": shown, "text": "红色"},
        {"pictures": shown[:1], "text": "what color is the ring?"},
    ]}  # fmt: skip
    return made


def request(doc_id: int, **options: Any) -> Any:
    def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
        parts = [{"type": "image", "url": picture} for picture in doc["pictures"]]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": doc["text"]}]}]

    return SimpleNamespace(args=("", messages, options, doc_id, "t", "test"))


def test_each_request_gets_the_engines_answer(model: Any) -> None:
    limits = (8, 5, 8, 8)
    found = model.generate_until(
        [request(n, max_new_tokens=limit, until=["\n\n"], temperature=0) for n, limit in enumerate(limits)]
    )
    docs = model.task_dict["t"]["test"]
    wanted = [
        model._engine.chat(doc["pictures"], doc["text"], max_new_tokens=limit)
        for doc, limit in zip(docs, limits, strict=True)
    ]
    assert found == wanted
    assert len(set(found)) == 4


def test_an_answer_ends_before_what_a_task_names(model: Any) -> None:
    (whole,) = model.generate_until([request(1, max_new_tokens=12)])
    middle = whole[len(whole) // 2]
    (cut,) = model.generate_until([request(1, max_new_tokens=12, until=middle)])
    assert cut == whole[: whole.index(middle)]


def test_what_it_cannot_do_is_said(model: Any) -> None:
    with pytest.raises(DataError, match="decodes greedily"):
        model.generate_until([request(0, do_sample=True, temperature=0.7)])
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])
    video = SimpleNamespace(
        args=(
            "",
            lambda doc: [{"role": "user", "content": [{"type": "video", "url": "x"}]}],
            {},
            0,
            "t",
            "test",
        )
    )
    with pytest.raises(DataError, match="contains video; ziya_visual takes images"):
        model.generate_until([video])


def test_lmms_eval_finds_it(adapter: Any) -> None:
    told = adapter.manifest()
    module, _, name = told.chat_class_path.rpartition(".")
    assert getattr(importlib.import_module(module), name).is_simple is False
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]
    entry = project["entry-points"]["lmms_eval.models"]["ziya_visual"]
    assert entry == f"{module}:{adapter.manifest.__name__}"
