"""Open whatever an evaluation can ask: one of our checkpoints, a stock image-text model, or an endpoint."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ziya_visual.core import distributed
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import hash_json, read_json
from ziya_visual.core.pictures import data_uri
from ziya_visual.core.records import Example
from ziya_visual.eval.models.answer_cache import Answerer, CachedAnswerer, CachedRanker, image_hash
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.endpoint import Sending, split_endpoint
from ziya_visual.forge.ask.ledger import Ledger, Outcome
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype
from ziya_visual.infer.stock import StockModel
from ziya_visual.model.checkpoint import ALIGNMENT, CONFIGS, local_folder
from ziya_visual.model.lora import ADAPTER_FILE

ANSWERS = "answers.jsonl"
CONCURRENCY = 16  # requests to an endpoint in flight, which is what a kill can cost


@dataclass(frozen=True)
class EvalModel:
    """A model that can be evaluated.

    Attributes:
        kind: ``ours``, ``stock`` or ``endpoint``.
        ranker: the answerer if it also retrieves, else None.
        plain: whether it has no chat template and gets the prompts that were published for such models.
        failures: reason -> questions without an answer, as counted by the model itself.
    """

    name: str
    kind: str
    answerer: Answerer
    ranker: CachedRanker | None = None
    plain: bool = False
    failures: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def open_model(
    checkpoint: str, *, out: Path, concurrency: int = CONCURRENCY, dtype: Dtype = "auto"
) -> Iterator[EvalModel]:
    """Open the model that ``checkpoint`` names: a folder or hub id, or ``MODEL@URL`` without ``torchrun``.

    ``out`` keeps the answers, and ``concurrency`` limits the requests in flight. ``dtype`` is for our
    checkpoints only, see :meth:`ZiyaVisual.from_pretrained`.
    """
    endpoint = split_endpoint(checkpoint)
    folder = Path() if endpoint else local_folder(checkpoint)
    if dtype != "auto" and (endpoint or not is_ours(folder)):
        raise ConfigError(f"--dtype {dtype} works with our checkpoints only; {checkpoint} is used as it is")
    if endpoint:
        if distributed.world_size() > 1:
            raise ConfigError("an endpoint is asked by one process; start eval without torchrun")
        with contextlib.closing(Endpoint(*endpoint, folder=out, concurrency=concurrency)) as remote:
            yield EvalModel(endpoint[0], "endpoint", remote, failures=remote.failures)
        return
    name = folder.resolve().name if Path(checkpoint).is_dir() else checkpoint
    answers, identity = out / ANSWERS, distributed.broadcast(_identity(folder, dtype))
    if is_ours(folder):
        engine = ZiyaVisual.from_pretrained(folder, dtype=dtype)
        ranker = CachedRanker(engine, path=answers, identity=identity)
        yield EvalModel(name, "ours", ranker, ranker if engine.retrieves else None)
    else:
        stock = StockModel.from_pretrained(folder, device=distributed.start().device)
        answerer = CachedAnswerer(stock, path=answers, identity=identity)
        yield EvalModel(name, "stock", answerer, plain=stock.plain)


def is_ours(folder: Path) -> bool:
    """Return whether our engine opens the folder: BLIP-2 or InstructBLIP with a chat template.

    A model without a chat template is not prompted in Ziya's format but as its authors prompt it.
    """
    if (folder / ADAPTER_FILE).is_file() or (folder / ALIGNMENT).is_file():
        return True
    config = folder / "config.json"
    if not config.is_file():
        return True  # our engine reports what is missing
    if read_json(config).get("model_type") not in CONFIGS:
        return False
    settings = folder / "tokenizer_config.json"
    in_settings = settings.is_file() and "chat_template" in read_json(settings)
    return in_settings or (folder / "chat_template.jinja").is_file()


def _identity(folder: Path, dtype: str) -> str:
    """Return a hash of package versions and of the names, sizes and times of the checkpoint's files."""
    versions = [version(name) for name in ("ziya-visual", "torch", "transformers")]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(str(path.relative_to(folder)), path.stat()) for path in files]
    return hash_json([versions, dtype, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]])


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, asked through the forge's client and ledger.

    A killed evaluation repeats only requests that were in flight. ``failures`` counts questions without an
    answer by reason; their answer is empty and counts as wrong.
    """

    def __init__(self, model: str, base_url: str, *, folder: Path, concurrency: int = CONCURRENCY) -> None:
        """Open the ledger in ``folder``; ``base_url`` includes ``/v1``, and nothing is sent yet."""
        self._sending = Sending(model, base_url, concurrency)
        self._ledger = _ImageLedger(folder)
        self.failures: Counter[str] = Counter()

    def close(self) -> None:
        """Release the ledger."""
        self._ledger.close()

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Return answers at temperature 0; a missing one is an empty text, counted in ``failures``."""
        assert images is not None, "an evaluation has its images by image_id"
        self._ledger.uris.clear()
        names: dict[str, str] = {}  # an image is encoded once for all its questions
        bodies = []
        for example in examples:
            image_id = str(example.image_id)
            if image_id not in names:
                names[image_id] = self._ledger.add_image(images[image_id])
            bodies.append(self._body(example, names[image_id], max_new_tokens))
        keys = self._ledger.add(bodies)
        ask_all(self._ledger, keys, self._sending)
        return [self._text(self._ledger.outcome(key)) for key in keys]

    def _body(self, example: Example, image_name: str, limit: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": turn.content} for turn in example.prompt_turns
        ]
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is not None:
            image = {"type": "image_url", "image_url": {"url": image_name}}
            first["content"] = [image, {"type": "text", "text": first["content"]}]
        return {"model": self._sending.model, "messages": messages, "max_tokens": limit, "temperature": 0}

    def _text(self, outcome: Outcome) -> str:
        text = outcome.answer or ""
        if not text.strip():
            reason = outcome.reason or f"empty reply ({outcome.finish_reason})"
            self.failures[reason.partition(":")[0]] += 1
        return text


class _ImageLedger(Ledger):
    """A ledger whose requests name images by hash; ``uris`` holds the current batch's images."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.uris: dict[str, str] = {}

    def add_image(self, image: Image) -> str:
        """Return the name by which requests refer to an image from now on."""
        name = f"sha256:{image_hash(image)}"
        if name not in self.uris:
            self.uris[name] = data_uri(image)
        return name

    def body(self, key: str) -> dict[str, Any]:
        """Return the body to send for ``key``, with its images."""
        body = super().body(key)
        for message in body["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image_url":
                    part["image_url"]["url"] = self.uris[part["image_url"]["url"]]
        return body
