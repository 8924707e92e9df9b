"""The saved states of a run, from which a killed run resumes: atomic and checksummed, the newest two kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ziya_visual.core import log
from ziya_visual.core.distributed import barrier, rank
from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.files import atomic_path, hash_file, write_text

STATES = "states"  # the folder of a run's states in its output folder
KEPT_STATES = 2


def trainable_weights(model: nn.Module, alignment: nn.Module) -> dict[str, Tensor]:
    """Return every weight that a stage may change: all but the language model's own under its adapters."""
    named = [(f"model.{name}", tensor) for name, tensor in model.state_dict().items()]
    named += [(f"alignment.{name}", tensor) for name, tensor in alignment.state_dict().items()]
    return {name: tensor for name, tensor in named if "language_model" not in name or "lora_" in name}


def restore_weights(model: nn.Module, alignment: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights that :func:`trainable_weights` returned back into the networks."""
    own = trainable_weights(model, alignment)
    assert own.keys() == weights.keys(), "the state belongs to another recipe"
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``folder/STAGE-STEP.pt`` and its checksum, and delete all but the newest states.

    The state has a ``stage`` and a ``step``, and ``torch.load`` has to open it with ``weights_only``.
    """
    _write(folder / f"{state['stage']:02d}-{state['step']:09d}.pt", state)
    for path in _newest_first(folder)[KEPT_STATES:]:
        _checksum(path).unlink(missing_ok=True)  # first, for a state without a checksum counts as incomplete
        path.unlink()


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the newest undamaged state, or None if there is none; damaged ones are deleted.

    Otherwise a damaged state of a later step would count as newer than those that the run writes now.
    """
    for path in _newest_first(folder):
        if _is_complete(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        log.logger.warning("%s is damaged or incomplete and is deleted; trying the one before it", path)
        _checksum(path).unlink(missing_ok=True)
        path.unlink()
    return None


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the best weights of a stage on rank 0."""
    if rank() == 0:
        _write(path, weights)
    barrier()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_weights` wrote."""
    if not _is_complete(path):
        raise CheckpointError(f"{path} is damaged: delete {path.parent} to train from the start")
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    write_text(_checksum(path), hash_file(path) + "\n")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.pt"), reverse=True)


def _checksum(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".sha256")


def _is_complete(path: Path) -> bool:
    checksum = _checksum(path)
    return checksum.is_file() and checksum.read_text().strip() == hash_file(path)
