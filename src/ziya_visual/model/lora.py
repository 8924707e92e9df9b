"""Trained parts: which parameters a stage trains, LoRA on the language model (peft), and adapter folders.

An adapter folder holds everything that was trained since a base checkpoint. LoRA is in peft's layout, with
the keys of the whole BLIP-2 network, so stock peft opens it. All other trained weights are in
``trained.safetensors`` under the names of :func:`parameters_by_part`. ``adapter.json`` lists the trained
parts and names the base checkpoint with the hashes of its weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ziya_visual.core.errors import CheckpointError, ConfigError, DataError
from ziya_visual.core.files import atomic_dir, hash_file, read_json, write_json
from ziya_visual.core.trainable import parse_rule
from ziya_visual.model.build.weights import check_weights, open_file
from ziya_visual.model.network import Alignment, ZiyaVisualModel

ADAPTER_FILE = "adapter.json"
TRAINED = "trained.safetensors"
LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
_INSIDE, _OUTSIDE = "model.language_model.base_model.model.", "base_model.model.language_model."

Parameters = dict[str, nn.Parameter]


def linear_layers(language_model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers in the decoder's numbered blocks by name, GPT-2's ``Conv1D`` included.

    Heads and projections outside the blocks do not count.
    """
    return {
        name: module
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _block_number(name) is not None
    }


def _block_number(name: str) -> int | None:
    """Return the first number in a dotted name, which is its block, or None."""
    return next((int(piece) for piece in name.split(".") if piece.isdigit()), None)


def add_lora(model: ZiyaVisualModel, *, rank: int, alpha: float) -> None:
    """Wrap the language model with adapters that start at zero, unless it has adapters already."""
    if hasattr(model.language_model, "peft_config"):
        return
    layers = linear_layers(model.language_model)
    if not layers:
        name = type(model.language_model).__name__
        raise CheckpointError(f"{name}: no linear layers in numbered blocks for LoRA to adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in layers}),
        fan_in_fan_out=all(type(layer) is Conv1D for layer in layers.values()),
    )
    model.language_model = get_peft_model(model.language_model, config)


def merge_lora(model: ZiyaVisualModel) -> None:
    """Merge adapters into the weights, if there are any.

    They may be ours, or those that stock transformers adds for a checkpoint whose folder contains them.
    """
    if hasattr(model.language_model, "merge_and_unload"):
        model.language_model = model.language_model.merge_and_unload()
    wrapped = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in wrapped:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    if wrapped:  # otherwise transformers would save the adapter alone, and all keys under peft's names
        model._hf_peft_config_loaded = False
        model._weight_conversions = None


def parameters_by_part(model: ZiyaVisualModel, alignment: Alignment) -> dict[str, Parameters]:
    """Return the parameters of each part that a stage may train, named ``model.*`` and ``alignment.*``."""
    prefixes = {
        "qformer": "model.qformer.",
        "query_tokens": "model.query_tokens",
        "projection": "model.language_projection.",
        "alignment": "alignment.",
        "lora": "model.language_model.",
        "vision": "model.vision_model.",
    }
    roots: dict[str, nn.Module] = {"model": model, "alignment": alignment}
    named = {f"{root}.{name}": p for root, module in roots.items() for name, p in module.named_parameters()}
    by_part = {
        part: {name: p for name, p in named.items() if name.startswith(prefix)}
        for part, prefix in prefixes.items()
    }
    by_part["lora"] = {name: p for name, p in by_part["lora"].items() if "lora_" in name}
    return by_part


def parameters_for_rule(by_part: dict[str, Parameters], rule: str) -> Parameters:
    """Return the parameters that a rule of ``trains`` selects."""
    part, blocks = _selection(by_part, rule)
    return {name: p for name, p in by_part[part].items() if blocks is None or _block_number(name) in blocks}


def _selection(by_part: dict[str, Parameters], rule: str) -> tuple[str, range | None]:
    """Return a rule's part and the numbers of the blocks it selects, None for the whole part."""
    part, selection = parse_rule(rule)
    if selection is None:
        return part, None
    count = 1 + max((n for name in by_part[part] if (n := _block_number(name)) is not None), default=-1)
    blocks = range(count)[selection]
    if not blocks:
        raise ConfigError(f"trains: {rule} selects nothing: {part} has {count} blocks, counted from 0")
    return part, blocks


def freeze_all_but(model: ZiyaVisualModel, alignment: Alignment, trains: Iterable[str]) -> dict[str, int]:
    """Train the selected parts or blocks; freeze the rest and keep it in evaluation mode.

    Returns:
        The number of trained parameters by rule.
    """
    for network in (model, alignment):
        network.requires_grad_(False)
        network.eval()
    by_part = parameters_by_part(model, alignment)
    modules = {"qformer": model.qformer, "alignment": alignment, "vision": model.vision_model}
    counts = {}
    for rule in trains:
        selected = parameters_for_rule(by_part, rule)
        for parameter in selected.values():
            parameter.requires_grad_(True)
        counts[rule] = sum(parameter.numel() for parameter in selected.values())
        part, blocks = _selection(by_part, rule)
        for name, module in modules[part].named_modules() if part in modules else ():
            is_block = name.rsplit(".", 1)[-1].isdigit()
            if blocks is None or (is_block and _block_number(name) in blocks):
                module.train()
    assert sum(counts.values()) == sum(
        p.numel() for p in [*model.parameters(), *alignment.parameters()] if p.requires_grad
    )
    return counts


def save_adapter(
    folder: Path, *, model: ZiyaVisualModel, alignment: Alignment, trained: Sequence[str], base: Path
) -> None:
    """Write an adapter folder atomically; the model keeps its adapters unmerged.

    ``trained`` are the rules of ``trains`` of all stages since the checkpoint folder ``base``.
    """
    by_part = parameters_by_part(model, alignment)
    with atomic_dir(folder) as temporary:
        if _has_lora(trained):
            save_file({_peft_name(name): p.data for name, p in by_part["lora"].items()}, temporary / LORA)
            config = copy.copy(model.language_model.peft_config["default"])
            names = "|".join(sorted(config.target_modules))
            config.target_modules = rf"language_model\..*\.\d+\..*\b({names})"  # the ViT has an fc1 too
            config.base_model_name_or_path, config.inference_mode = str(base), True
            config.save_pretrained(temporary)
        rest = {name: p.data.contiguous() for name, p in _without_lora(by_part, trained).items()}
        save_file(rest, temporary / TRAINED)
        relative = os.path.relpath(base.resolve(), folder.resolve())
        record = {"base": relative, "weights": weight_hashes(base), "trained": list(trained)}
        write_json(temporary / ADAPTER_FILE, record)


def weight_hashes(folder: Path) -> dict[str, str]:
    """Identify a checkpoint by the SHA-256 of each of its weight files."""
    hashes = {path.name: hash_file(path) for path in sorted(folder.glob("*.safetensors"))}
    if not hashes:
        raise CheckpointError(f"{folder}: no *.safetensors files; expected an adapter's base checkpoint")
    return hashes


def adapter_base(folder: Path) -> Path:
    """Return the base checkpoint that an adapter folder names."""
    base = (folder / str(_read_record(folder)["base"])).resolve()
    if not base.is_dir():
        raise CheckpointError(
            f"{folder / ADAPTER_FILE}: its base checkpoint {base} does not exist; restore it or correct the "
            "key 'base'"
        )
    return base


def load_adapter(folder: Path, *, model: ZiyaVisualModel, alignment: Alignment) -> None:
    """Load an adapter folder into its opened base, whose weights must be unchanged; LoRA stays unmerged."""
    record, base = _read_record(folder), adapter_base(folder)
    actual, expected = weight_hashes(base), record["weights"]
    for name in sorted({*actual, *expected}):
        if actual.get(name) != expected.get(name):
            raise CheckpointError(
                f"{base / name}: SHA-256 is {actual.get(name)}, expected {expected.get(name)}: "
                f"{folder} was trained on a different base"
            )
    if _has_lora(record["trained"]):
        try:
            config = read_json(folder / LORA_CONFIG)
            add_lora(model, rank=config["r"], alpha=config["lora_alpha"])
        except (DataError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / LORA_CONFIG}: no usable LoRA settings ({error!r:.120})"
            ) from error
        lora = parameters_by_part(model, alignment)["lora"]
        _load_parameters(folder / LORA, {_peft_name(name): p for name, p in lora.items()})
    by_part = parameters_by_part(model, alignment)
    _load_parameters(folder / TRAINED, _without_lora(by_part, record["trained"]))


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / ADAPTER_FILE)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(record, dict) or not {"base", "weights", "trained"} <= record.keys():
        raise CheckpointError(f"{folder / ADAPTER_FILE}: expected an object with base, weights and trained")
    return record


def _has_lora(rules: Sequence[str]) -> bool:
    return any(parse_rule(rule)[0] == "lora" for rule in rules)


def _without_lora(by_part: dict[str, Parameters], rules: Sequence[str]) -> Parameters:
    rules = [rule for rule in rules if not _has_lora([rule])]
    return {name: p for rule in rules for name, p in parameters_for_rule(by_part, rule).items()}


def _peft_name(name: str) -> str:
    """Translate our name of a LoRA weight to the one peft uses when it wraps the whole network."""
    assert name.startswith(_INSIDE), name
    return _OUTSIDE + name.removeprefix(_INSIDE).replace(".default.", ".")


def _load_parameters(path: Path, parameters: Parameters) -> None:
    """Copy a file's tensors into parameters; keys and shapes must match exactly."""
    entries = open_file(path)
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    check_weights(entries, expected, where=path, of="the trained parts")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(entries[name].read())
