"""The saved states of a run: atomic, checksummed, the newest two kept, a damaged one removed aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziya_visual.core import log
from ziya_visual.core.distributed import barrier, rank
from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.files import atomic_path, hash_file, write_text

KEPT = 2


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``folder/STAGE-STEP.pt`` and, when that is whole, its checksum; then drop all but the newest.

    Args:
        folder: of the run's states.
        state: whatever ``torch.load`` opens with ``weights_only``; it has a ``stage`` and a ``step``.
    """
    _write(folder / f"{state['stage']:02d}-{state['step']:09d}.pt", state)
    for old in _newest_first(folder)[KEPT:]:
        _checksum(old).unlink(missing_ok=True)  # first: a state without one counts as cut off
        old.unlink()


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the best weights of a stage, likewise; by one process of several."""
    if rank() == 0:
        _write(path, weights)
    barrier()


def read_weights(path: Path) -> dict[str, Tensor]:
    """What :func:`write_weights` wrote.

    Raises:
        CheckpointError: it is damaged.
    """
    if not _is_whole(path):
        raise CheckpointError(f"{path} is damaged: delete {path.parent} to train from the start")
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


def read_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole; None where there is none. What is not whole is removed.

    Else a damaged one of a later step would count as newer than those that the run writes now.
    """
    for path in _newest_first(folder):
        if _is_whole(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        log.logger.warning("%s is damaged or was cut off and is removed; the one before it is tried", path)
        _checksum(path).unlink(missing_ok=True)
        path.unlink()
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as aside:
        torch.save(content, aside)
    write_text(_checksum(path), hash_file(path) + "\n")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.pt"), reverse=True)


def _checksum(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".sha256")


def _is_whole(path: Path) -> bool:
    checksum = _checksum(path)
    return checksum.is_file() and checksum.read_text().strip() == hash_file(path)
