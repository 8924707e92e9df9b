"""What is trained: parts or blocks of them by name, and low-rank adapters on the language model (peft)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ziya_visual.core.errors import CheckpointError, ConfigError, DataError, one_line
from ziya_visual.core.files import atomic_dir, hash_file, read_json, write_json
from ziya_visual.core.trainable import parse_rule
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.network import ZiyaVisualModel

Named = dict[str, nn.Parameter]


def linear_names(language_model: nn.Module) -> list[str]:
    """The names of the linear layers inside the decoder's blocks, whatever the architecture calls them.

    GPT-2's ``Conv1D`` is one too. Heads and projections outside the numbered blocks are never among them.
    """
    return sorted({name.rsplit(".", 1)[-1] for name, _ in _linears(language_model)})


def _linears(language_model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in language_model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and block_of(name) is not None:
            yield name, module


def block_of(name: str) -> int | None:
    """The block that a parameter or module stands in: the first number of its dotted name, if any."""
    return next((int(piece) for piece in name.split(".") if piece.isdigit()), None)


def add_lora(model: ZiyaVisualModel, *, rank: int, alpha: float) -> None:
    """Wrap the language model with adapters that start as zero, unless it has them already.

    Raises:
        CheckpointError: the language model has no linear layer in numbered blocks.
    """
    if hasattr(model.language_model, "peft_config"):
        return
    kinds = {type(module) for _, module in _linears(model.language_model)}
    if not kinds:
        name = type(model.language_model).__name__
        raise CheckpointError(f"{name}: no linear layers in numbered blocks, which LoRA could adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=linear_names(model.language_model),
        fan_in_fan_out=kinds == {Conv1D},
    )
    model.language_model = get_peft_model(model.language_model, config)


def merge_lora(model: ZiyaVisualModel) -> None:
    """Add the adapters into the weights for good; nothing happens where there are none.

    They may be ours, or such as stock transformers puts into a checkpoint whose folder holds them.
    """
    if hasattr(model.language_model, "merge_and_unload"):
        model.language_model = model.language_model.merge_and_unload()
    wrapped = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in wrapped:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    if wrapped:  # else transformers would save the adapter alone, and all keys by peft's names
        model._hf_peft_config_loaded = False
        model._weight_conversions = None


def parameters_by_part(model: ZiyaVisualModel, alignment: Alignment) -> dict[str, Named]:
    """The parameters of each part that a stage may train, named ``model.*`` and ``alignment.*``."""
    prefixes = {
        "qformer": "model.qformer.",
        "query_tokens": "model.query_tokens",
        "projection": "model.language_projection.",
        "alignment": "alignment.",
        "lora": "model.language_model.",
        "vision": "model.vision_model.",
    }
    both: dict[str, nn.Module] = {"model": model, "alignment": alignment}
    named = {f"{root}.{name}": p for root, module in both.items() for name, p in module.named_parameters()}
    parts = {
        part: {name: p for name, p in named.items() if name.startswith(prefix)}
        for part, prefix in prefixes.items()
    }
    parts["lora"] = {name: p for name, p in parts["lora"].items() if "lora_" in name}
    return parts


def parameters_for_rule(parts: dict[str, Named], rule: str) -> Named:
    """The parameters that a rule of ``trains`` names.

    Raises:
        ConfigError: the part has no block in the rule's range.
    """
    part, _ = parse_rule(rule)
    blocks = _blocks(parts, rule)
    return {name: p for name, p in parts[part].items() if blocks is None or block_of(name) in blocks}


def _blocks(parts: dict[str, Named], rule: str) -> range | None:
    """The numbers of the blocks that a rule names, None for the whole part."""
    part, wanted = parse_rule(rule)
    if wanted is None:
        return None
    count = 1 + max((block for name in parts[part] if (block := block_of(name)) is not None), default=-1)
    blocks = range(count)[wanted]
    if not blocks:
        raise ConfigError(f"trains: {rule} is empty, for {part} has {count} blocks; count from 0")
    return blocks


def freeze_all_but(model: ZiyaVisualModel, alignment: Alignment, trains: Iterable[str]) -> dict[str, int]:
    """Let the named parts or blocks learn and nothing else.

    Modules stay in evaluation mode where they are frozen.

    Returns:
        The number of trained parameters by rule.

    Raises:
        ConfigError: a part has no block in a rule's range.
    """
    for network in (model, alignment):
        network.requires_grad_(False)
        network.eval()
    parts = parameters_by_part(model, alignment)
    owners = {"qformer": model.qformer, "alignment": alignment, "vision": model.vision_model}
    table = {}
    for rule in trains:
        learning = parameters_for_rule(parts, rule)
        for parameter in learning.values():
            parameter.requires_grad_(True)
        table[rule] = sum(parameter.numel() for parameter in learning.values())
        owner, blocks = owners.get(parse_rule(rule)[0]), _blocks(parts, rule)
        if owner is not None:
            _train_mode(owner, blocks)
    assert sum(table.values()) == sum(
        p.numel() for p in [*model.parameters(), *alignment.parameters()] if p.requires_grad
    )
    return table


def _train_mode(owner: nn.Module, blocks: range | None) -> None:
    if blocks is None:
        owner.train()
        return
    for name, module in owner.named_modules():
        if name.rsplit(".", 1)[-1].isdigit() and block_of(name) in blocks:
            module.train()


ADAPTER_FILE = "adapter.json"
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
    parts = parameters_by_part(model, alignment)
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
        write_json(
            aside / ADAPTER_FILE, {"base": where, "weights": weight_hashes(base), "trained": list(trained)}
        )


def weight_hashes(base: Path) -> dict[str, str]:
    """The identity of a checkpoint: the SHA-256 of each of its weight files by name."""
    found = {path.name: hash_file(path) for path in sorted(base.glob("*.safetensors"))}
    if not found:
        raise CheckpointError(f"{base}: no *.safetensors there; expected the checkpoint of an adapter")
    return found


def adapter_base(folder: Path) -> Path:
    """The checkpoint folder that an adapter folder names.

    Raises:
        CheckpointError: it is not where the adapter says.
    """
    base = (folder / str(_record(folder)["base"])).resolve()
    if not base.is_dir():
        raise CheckpointError(
            f"{folder / ADAPTER_FILE}: its base {base} is not there; put it back or mend the key 'base'"
        )
    return base


def load_adapter(folder: Path, *, model: ZiyaVisualModel, alignment: Alignment) -> None:
    """Put an adapter folder into its base, opened before; LoRA is left unmerged.

    Raises:
        CheckpointError: the base has other weights than the adapter was trained on; a file is missing or
            damaged; or keys or shapes are not exactly those that were trained.
    """
    record, base = _record(folder), adapter_base(folder)
    found = weight_hashes(base)
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
    parts = parameters_by_part(model, alignment)
    if lora:
        _fill(folder / LORA, {_peft_name(name): p for name, p in parts["lora"].items()})
    _fill(folder / TRAINED, _rest(parts, record["trained"]))


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / ADAPTER_FILE)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(record, dict) or not {"base", "weights", "trained"} <= record.keys():
        raise CheckpointError(f"{folder / ADAPTER_FILE}: expected an object with base, weights and trained")
    return record


def _has_lora(rules: Sequence[str]) -> bool:
    return any(parse_rule(rule)[0] == "lora" for rule in rules)


def _rest(parts: dict[str, Named], rules: Sequence[str]) -> Named:
    """What is trained besides LoRA."""
    kept: Named = {}
    for rule in rules:
        if not _has_lora([rule]):
            kept |= parameters_for_rule(parts, rule)
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
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error
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
