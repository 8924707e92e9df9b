"""The pre-trained parts of the miniature, a tiny ViT and a tiny LM: trained here, shipped with the package.

Start reading at :func:`pretrain_parts`; ``vision`` and ``language_model`` hold one training each. They may
import ``core``, ``scenes``, ``data``, ``model`` and :mod:`ziya_visual.train.optimizer`.
"""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.files import atomic_dir, hash_bytes, hash_json, read_json, write_json
from ziya_visual.data.chat.chat_format import ChatFormat
from ziya_visual.scenes import drawing, lessons
from ziya_visual.train.pretrain.language_model import LM_STEPS, lm_scores, pretrain_lm
from ziya_visual.train.pretrain.vision import VIT_STEPS, pretrain_vit

SHIPPED = Path(__file__).parents[2] / "shipped"
HASHED_READINGS = 60  # of each lesson


def pretrain_parts(
    out: Path, *, seed: int = 0, vit_steps: int = VIT_STEPS, lm_steps: int = LM_STEPS
) -> dict[str, Any]:
    """Train the tiny ViT and LM; write ``out/vit``, ``out/lm`` (float16) and the card, ``out/card.json``.

    Each is trained by one process with one thread, so that the number of cores does not change the result.
    """
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
        lm_result = pool.submit(_timed, pretrain_lm, seed, lm_steps)
        vit_result = pool.submit(_timed, pretrain_vit, seed, vit_steps, low_priority=True)
        (vit, vit_scores), vit_seconds = vit_result.result()
        (model, tokenizer), lm_seconds = lm_result.result()
    card = {
        "command": f"ziya-visual pretrain-parts --seed {seed}",
        "seed": seed,
        "steps": {"vit": vit_steps, "lm": lm_steps},
        "data": data_hash(),
        "scores": {"vit": vit_scores, "lm": lm_scores(model, ChatFormat(tokenizer), seed=seed)},
        "seconds": {"vit": round(vit_seconds), "lm": round(lm_seconds)},
        "torch": torch.__version__,
    }
    with atomic_dir(out) as aside:
        vit.half().save_pretrained(aside / "vit")
        model.half().save_pretrained(aside / "lm")
        tokenizer.save_pretrained(aside / "lm")
        write_json(aside / "card.json", card)
    log.logger.info("parts: %s", card["scores"])
    return card


def _use_one_thread() -> None:
    """Use one thread and no progress bar: two trainings share the machine and the terminal."""
    torch.set_num_threads(1)
    log.setup(bars=False)


def _timed(
    train: Callable[..., Any], seed: int, steps: int, *, low_priority: bool = False
) -> tuple[Any, float]:
    """Return the result and the seconds; ``low_priority`` gives way to the other training."""
    if low_priority and hasattr(os, "nice"):
        os.nice(10)
    started = time.monotonic()
    return train(seed=seed, steps=steps), time.monotonic() - started


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of a folder of parts."""
    path = folder / "card.json"
    if not path.is_file():
        command = f"ziya-visual pretrain-parts --out {folder}"
        raise CheckpointError(f"{folder}: there are no parts; make them: {command}")
    return dict(read_json(path))


def data_hash() -> str:
    """Hash what the parts are trained on: a sample of the LM's texts, and the code that draws images.

    Images are not hashed themselves, for pixels may differ by one between processors.
    """
    rng = np.random.default_rng(23)
    texts = [
        [lessons.reading(rng, lesson), lessons.translation(rng), lessons.sentence_pair(rng, for_forge=True)]
        for lesson in lessons.LESSONS
        for _ in range(HASHED_READINGS)
    ]
    code = _code(Path(drawing.__file__))
    return hash_json({"texts": hash_bytes(repr(texts).encode()), "draw": hash_bytes(code.encode())})


def _code(path: Path) -> str:
    """Return the code of a module without imports, docstrings and comments, which do not change images."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    module.body = [node for node in module.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    return ast.unparse(module)
