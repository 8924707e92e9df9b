"""An adapter folder: all that was trained since a base checkpoint, and with the base all that is needed.

LoRA is in peft's layout, its keys those of the whole BLIP-2 network, so that stock peft opens it; everything
else that was trained is in ``trained.safetensors``, by the names of :func:`~.adapters.parts_of`.
``adapter.json`` says what was trained and names the base, with the hashes of its weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.core.files import atomic_dir, hash_file, read_json, write_json
from ziya_visual.core.trainable import parse_rule
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.lora import Named, add_lora, chosen, parts_of
from ziya_visual.model.network import ZiyaVisualModel

RECORD = "adapter.json"
TRAINED = "trained.safetensors"
LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
_INSIDE, _OUTSIDE = "model.language_model.base_model.model.", "base_model.model.language_model."


def save_adapter(
    folder: Path, *, model: ZiyaVisualModel, alignment: Alignment, trained: Sequence[str], base: Path
) -> None:
    """Write an adapter folder, atomically.

    Args:
        folder: where to.
        model: as it was trained, its adapters not merged.
        alignment: likewise.
        trained: the rules of ``trains`` of all stages since ``base``.
        base: the checkpoint folder that training started from.

    Raises:
        CheckpointError: there are no weights in ``base``.
    """
    parts = parts_of(model, alignment)
    with atomic_dir(folder) as aside:
        if _has_lora(trained):
            save_file({_peft_name(name): p.data for name, p in parts["lora"].items()}, aside / LORA)
            config = copy.copy(model.language_model.peft_config["default"])
            names = "|".join(sorted(config.target_modules))
            config.target_modules = rf"language_model\..*\.\d+\..*\b({names})"  # the ViT has an fc1 too
            config.base_model_name_or_path, config.inference_mode = str(base), True
            config.save_pretrained(aside)
        save_file({name: p.data.contiguous() for name, p in _rest(parts, trained).items()}, aside / TRAINED)
        where = os.path.relpath(base.resolve(), folder.resolve())
        write_json(aside / RECORD, {"base": where, "weights": weights_of(base), "trained": list(trained)})


def weights_of(base: Path) -> dict[str, str]:
    """The identity of a checkpoint: the SHA-256 of each of its weight files by name."""
    found = {path.name: hash_file(path) for path in sorted(base.glob("*.safetensors"))}
    if not found:
        raise CheckpointError(f"{base}: no *.safetensors there; expected the checkpoint of an adapter")
    return found


def base_of(folder: Path) -> Path:
    """The checkpoint folder that an adapter folder names.

    Raises:
        CheckpointError: it is not where the adapter says.
    """
    base = (folder / str(_record(folder)["base"])).resolve()
    if not base.is_dir():
        raise CheckpointError(
            f"{folder / RECORD}: its base {base} is not there; put it back or mend the key 'base'"
        )
    return base


def load_adapter(folder: Path, *, model: ZiyaVisualModel, alignment: Alignment) -> None:
    """Put an adapter folder into its base, opened before; LoRA is left unmerged.

    Raises:
        CheckpointError: the base has other weights than the adapter was trained on; a file is missing or
            damaged; or keys or shapes are not exactly those that were trained.
    """
    record, base = _record(folder), base_of(folder)
    found = weights_of(base)
    for name in sorted({*found, *record["weights"]}):
        if found.get(name) != record["weights"].get(name):
            raise CheckpointError(
                f"{base / name}: SHA-256 is {found.get(name)}, expected "
                f"{record['weights'].get(name)}: another base than {folder} was trained on"
            )
    lora = _has_lora(record["trained"])
    if lora:
        try:
            config = read_json(folder / LORA_CONFIG)
            add_lora(model, rank=config["r"], alpha=config["lora_alpha"])
        except (DataError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / LORA_CONFIG}: no LoRA settings ({error!r:.120})") from error
    parts = parts_of(model, alignment)
    if lora:
        _fill(folder / LORA, {_peft_name(name): p for name, p in parts["lora"].items()})
    _fill(folder / TRAINED, _rest(parts, record["trained"]))


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / RECORD)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(record, dict) or not {"base", "weights", "trained"} <= record.keys():
        raise CheckpointError(f"{folder / RECORD}: expected an object with base, weights and trained")
    return record


def _has_lora(rules: Sequence[str]) -> bool:
    return any(parse_rule(rule)[0] == "lora" for rule in rules)


def _rest(parts: dict[str, Named], rules: Sequence[str]) -> Named:
    """What is trained besides LoRA."""
    kept: Named = {}
    for rule in rules:
        if not _has_lora([rule]):
            kept |= chosen(parts, rule)
    return kept


def _peft_name(name: str) -> str:
    """Our name of a LoRA weight -> peft's, had it wrapped the whole network."""
    assert name.startswith(_INSIDE), name
    return _OUTSIDE + name.removeprefix(_INSIDE).replace(".default.", ".")


def _fill(path: Path, wanted: Named) -> None:
    """Copy a file's tensors into parameters; its keys and shapes must be exactly theirs."""
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or foreign:
        raise CheckpointError(
            f"{path}: {len(missing)} keys missing (such as {missing[:1]}), "
            f"{len(foreign)} unexpected (such as {foreign[:1]})"
        )
    for name, parameter in wanted.items():
        if found[name].shape != parameter.shape:
            shapes = tuple(found[name].shape), tuple(parameter.shape)
            raise CheckpointError(f"{path}: {name} has shape {shapes[0]}, expected {shapes[1]}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(found[name])
