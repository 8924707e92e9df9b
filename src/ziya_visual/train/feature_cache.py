"""What frozen encoders make of each picture, kept on disk: encoded once for all steps, stages and runs.

A folder belongs to one encoder (the ViT, or ViT and Q-Former) at one size and precision; its shards
(safetensors) name their pictures by content, so that runs may share it, and a run that was killed goes on
where it was. What the budget leaves out is encoded whenever it is needed.

Legend: N pictures, B of them in a step, L vectors of width D a picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ziya_visual.core import log
from ziya_visual.core.distributed import barrier
from ziya_visual.core.files import atomic_path, hash_bytes, hash_json

SHARD = 256  # pictures encoded at once and kept in a file
Encode = Callable[[np.ndarray], Tensor]  # rows int64[B] -> float[B, L, D]


def encoder_key(
    modules: Sequence[nn.Module], tensors: Iterable[Tensor] = (), *, side: int, dtype: torch.dtype
) -> str:
    """What the results depend on: the encoders' weights, the pictures' size and the precision."""
    named = [item for module in modules for item in module.state_dict().items()]
    named += [("", tensor) for tensor in tensors]
    weights = [(name, hash_bytes(_raw(tensor))) for name, tensor in named]
    return hash_json({"weights": weights, "side": side, "dtype": str(dtype)})


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


class FeatureCache:
    """float[B, L, D] of rows of ``pictures``, from disk where they are there."""

    def __init__(self, folder: Path, pictures: np.ndarray, encode: Encode, *, gigabytes: float) -> None:
        """Open what the folder has; :meth:`fill` adds to it.

        Args:
            folder: of one :func:`encoder_key`.
            pictures: uint8[N, S, S, 3].
            encode: of rows of them.
            gigabytes: that the folder may have in all.
        """
        self._folder, self._encode, self._budget = folder, encode, int(gigabytes * 1e9)
        self._names = [hash_bytes(picture.tobytes()) for picture in pictures]
        self._places: dict[str, tuple[Any, int]] = {}
        self._bytes = 0
        self._open_all()

    def fill(self, *, rank: int = 0, processes: int = 1) -> None:
        """Encode and keep all pictures that are not there yet, as far as the budget goes.

        Each of several processes takes its share of the pictures, whatever the others have made by now,
        and has in the end what all have made.
        """
        rows = {name: row for row, name in enumerate(self._names)}
        mine = list(rows.items())[rank::processes]
        todo = np.asarray([row for name, row in mine if name not in self._places], np.int64)
        budget = self._bytes + (self._budget - self._bytes) // processes
        with log.progress("encode pictures", len(todo)) as bar:
            for start in range(0, len(todo), SHARD):
                some = todo[start : start + SHARD]
                states = self._encode(some)
                if self._bytes + states.nbytes > budget:
                    log.logger.warning(
                        "%.1f GB do not hold the states of %d of %d pictures; they are encoded in every step",
                        self._budget / 1e9, (len(todo) - start) * processes, len(set(self._names)),
                    )  # fmt: skip
                    break
                self._open(self._write([self._names[row] for row in some], states))
                bar.advance(len(some))
        if processes > 1:
            barrier()
            self._open_all()

    def _open_all(self) -> None:
        """All shards in the folder, whoever made them; none that another process is still writing."""
        self._places.clear()
        self._bytes = 0
        for path in sorted(self._folder.glob("[!.]*.safetensors")):
            self._open(path)

    def __call__(self, rows: np.ndarray) -> Tensor:
        """float[B, L, D] of these rows."""
        places = [self._places.get(self._names[row]) for row in rows]
        missing = np.asarray([number for number, place in enumerate(places) if place is None], np.int64)
        if len(missing) == len(rows):
            return self._encode(rows)
        kept = [place[0].get_slice("states")[place[1]] for place in places if place is not None]
        states = kept[0].new_empty(len(rows), *kept[0].shape)
        states[np.setdiff1d(np.arange(len(rows)), missing)] = torch.stack(kept)
        if len(missing):
            states[missing] = self._encode(rows[missing])
        return states

    def _write(self, names: Sequence[str], states: Tensor) -> Path:
        path = self._folder / f"{hash_json(names)[:24]}.safetensors"
        with atomic_path(path) as aside:
            save_file({"states": states.contiguous()}, aside, metadata={"pictures": json.dumps(names)})
        return path

    def _open(self, path: Path) -> None:
        try:
            shard = safe_open(path, "pt")
            names = json.loads(shard.metadata()["pictures"])
        except (SafetensorError, KeyError, TypeError) as error:
            log.logger.warning("%s is damaged and made anew (%s)", path, error)
            return
        self._bytes += path.stat().st_size
        self._places |= {name: (shard, number) for number, name in enumerate(names)}
