"""What an evaluation may ask: a checkpoint of ours, any stock image-text model, or an endpoint."""

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
from ziya_visual.eval.models.answer_cache import Answerer, Kept, KeptRanker
from ziya_visual.eval.models.endpoint import CONCURRENCY, Endpoint, split_endpoint
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype
from ziya_visual.infer.stock import StockModel
from ziya_visual.model.build.layouts import ALIGNMENT, CONFIGS
from ziya_visual.model.checkpoint import local_folder
from ziya_visual.model.lora import ADAPTER_FILE

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Opened:
    """A model that can be evaluated.

    Attributes:
        name: for titles and answer files.
        kind: ``ours``, ``stock`` or ``endpoint``.
        answerer: answers questions about pictures.
        ranker: the same where it retrieves too; None where it only speaks.
        plain: it has no chat template and wants the prompts that were published for such models.
        failures: reason -> questions without an answer, as far as the model itself counts them.
    """

    name: str
    kind: str
    answerer: Answerer
    ranker: KeptRanker | None = None
    plain: bool = False
    failures: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def opened(
    checkpoint: str,
    *,
    out: Path,
    concurrency: int = CONCURRENCY,
    dtype: Dtype = "auto",
) -> Iterator[Opened]:
    """Open what ``checkpoint`` names.

    Args:
        checkpoint: a folder or hub id, or ``MODEL@URL``.
        out: the folder that keeps the answers.
        concurrency: requests to an endpoint in flight at once.
        dtype: as of :meth:`ZiyaVisual.from_pretrained`; others than ours are asked as they are.

    Raises:
        CheckpointError: it cannot be opened, in one line.
        ConfigError: an endpoint under ``torchrun``, or one whose ledger another run holds; a ``dtype`` for a
            model that is not ours.
    """
    where = split_endpoint(checkpoint)
    folder = Path() if where else local_folder(checkpoint)
    if dtype != "auto" and (where or not is_ours(folder)):
        raise ConfigError(f"--dtype {dtype} is for checkpoints of ours; {checkpoint} is asked as it is")
    if where:
        if distributed.world_size() > 1:
            raise ConfigError("an endpoint is asked by one process; start eval without torchrun")
        endpoint = Endpoint(*where, folder=out, concurrency=concurrency)
        with contextlib.closing(endpoint):
            yield Opened(where[0], "endpoint", endpoint, failures=endpoint.failures)
        return
    name = folder.resolve().name if Path(checkpoint).is_dir() else checkpoint
    answers, identity = out / ANSWERS, distributed.broadcast(_identity(folder, dtype))
    if is_ours(folder):
        engine = ZiyaVisual.from_pretrained(folder, dtype=dtype)
        kept = KeptRanker(engine, path=answers, identity=identity)
        yield Opened(name, "ours", kept, kept if engine.retrieves else None)
    else:
        stock = StockModel.from_pretrained(folder, device=distributed.start().device)
        known = Kept(stock, path=answers, identity=identity)
        yield Opened(name, "stock", known, plain=stock.plain)


def is_ours(folder: Path) -> bool:
    """Whether our engine opens it: BLIP-2 or InstructBLIP that says how a dialogue is written.

    One without a chat template is not spoken to in Ziya's: it is asked as its authors ask it.
    """
    if (folder / ADAPTER_FILE).is_file() or (folder / ALIGNMENT).is_file():
        return True
    config = folder / "config.json"
    if not config.is_file():
        return True  # our engine says what is missing
    if read_json(config).get("model_type") not in CONFIGS:
        return False
    settings = folder / "tokenizer_config.json"
    in_settings = settings.is_file() and "chat_template" in read_json(settings)
    return in_settings or (folder / "chat_template.jinja").is_file()


def _identity(folder: Path, dtype: str) -> str:
    """A hash that changes with the checkpoint, by names, sizes and times of its files, and with the code."""
    versions = [version(name) for name in ("ziya-visual", "torch", "transformers")]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(str(path.relative_to(folder)), path.stat()) for path in files]
    return hash_json([versions, dtype, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]])
