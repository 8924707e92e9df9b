"""``apply-delta``: a language model that was released as its difference from another, made whole.

Ziya-LLaMA-13B came so: LLaMA's weights may be had from their owner alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziya_visual.core.errors import CheckpointError, ConfigError
from ziya_visual.core.files import atomic_dir, read_json
from ziya_visual.model.fetch import local_folder
from ziya_visual.model.build.weights import SHARD_BYTES, Entry, open_weights, refuse_keys, write_weights

COPIED = (".json", ".model", ".txt", ".jinja")


def apply_delta(
    *, base: str | Path, delta: str | Path, out: Path, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write base + delta, tensor by tensor, in the delta's dtype; settings and tokenizer are the delta's.

    Where the delta's vocabulary is larger, the base counts as zero in the new rows.

    Args:
        base: folder or hub id.
        delta: folder or hub id.
        out: the new folder.
        shard_bytes: the largest weights file.

    Returns:
        What was done, to be shown.

    Raises:
        ConfigError: ``out`` is there already.
        CheckpointError: a file is missing or damaged, or the two have other keys or shapes.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: there already; name a new folder")
    below, above = local_folder(base), local_folder(delta)
    bases, deltas = open_weights(below), open_weights(above)
    missing, extra = deltas.keys() - bases.keys(), bases.keys() - deltas.keys()
    refuse_keys(f"base {below} under delta {above}", missing, extra, of="the delta")
    rows = (_vocabulary(below), _vocabulary(above))
    summed = {key: _sum(bases[key], entry, rows) for key, entry in deltas.items()}
    with atomic_dir(out) as aside:
        write_weights(aside, summed, shard_bytes=shard_bytes)
        for file in sorted(above.iterdir()):
            if file.suffix in COPIED and not file.name.endswith(".index.json"):
                shutil.copyfile(file, aside / file.name)
    grown = sum(bases[key].shape != entry.shape for key, entry in deltas.items())
    return {"tensors": len(summed), "with new rows": grown, "vocabulary": rows[1], "written": str(out)}


def _vocabulary(folder: Path) -> int:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: config.json not found there")
    size = read_json(path).get("vocab_size")
    if not isinstance(size, int):
        raise CheckpointError(f"{path}: vocab_size is {size!r}, expected a number")
    return size


def _sum(base: Entry, delta: Entry, rows: tuple[int, int]) -> Entry:
    """Their sum, of the delta's shape; ``rows`` are the vocabularies of both."""
    more = base.shape[:1] + delta.shape[:1] == rows and rows[1] > rows[0]
    if base.shape != delta.shape and not (more and base.shape[1:] == delta.shape[1:]):
        expected = f"{list(base.shape)} as in {base.file}, or more rows where the vocabulary has grown"
        raise delta.refuse(f"of shape {list(delta.shape)}", expected)

    def read() -> Tensor:
        total = delta.read().to(torch.float32, copy=True)
        lower = base.read().float()
        if base.shape == delta.shape:
            total += lower
        else:
            total[: len(lower)] += lower
        return total.to(delta.dtype)

    return Entry(delta.file, delta.key, delta.shape, delta.dtype, read)
