"""Open whatever an evaluation can ask: one of our checkpoints, a stock image-text model, or an endpoint."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ziya_visual.core import distributed
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import hash_json, read_json
from ziya_visual.eval.models.answer_cache import Answerer, CachedAnswerer, CachedRanker
from ziya_visual.eval.models.endpoint import CONCURRENCY, Endpoint
from ziya_visual.forge.ask.endpoint import split_endpoint
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype
from ziya_visual.infer.stock import StockModel
from ziya_visual.model.checkpoint import ALIGNMENT, CONFIGS, local_folder
from ziya_visual.model.lora import ADAPTER_FILE

ANSWERS = "answers.jsonl"


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
