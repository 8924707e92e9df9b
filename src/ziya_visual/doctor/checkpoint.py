"""The contents of a checkpoint folder and whether it runs on this machine, from file headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, InstructBlipForConditionalGeneration

from ziya_visual.core.errors import CheckpointError, DataError, one_line
from ziya_visual.core.files import read_json
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import ChatFormat
from ziya_visual.doctor.memory import by_part, count, fits
from ziya_visual.model.build.weights import Weights, open_file, open_weights
from ziya_visual.model.checkpoint import ALIGNMENT
from ziya_visual.model.network import Alignment, ZiyaVisualModel

CONTEXT = 1024  # tokens whose keys and values are counted
TRAINABLE = OURS, BLIP2 = "ziya-visual", "blip-2"
ZIYA = "ziya-blip2, as published: no language model inside"
LAYOUTS = {  # layout -> the commands that accept it
    OURS: "chat, serve, web, eval, train",
    BLIP2: "chat, serve, web, train, init --bridge",
    "instructblip": "chat, serve, web, init --bridge",
    ZIYA: "init --bridge",
    "language model": "serve, init --llm",
}


@dataclass(slots=True)
class Report:
    """JSON-ready facts about a checkpoint or recipe, and lines for the user."""

    facts: dict[str, Any] = field(default_factory=dict)
    advice: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def examine_checkpoint(folder: Path, machine: dict[str, Any]) -> Report:
    """Examine a checkpoint folder; no weight is loaded.

    Raises:
        CheckpointError: there is no readable ``config.json``, or its architecture is not supported.
    """
    report = Report()
    layout, model, alignment = _architecture(folder)
    report.facts = {
        "path": str(folder),
        "layout": layout,
        "usable_for": LAYOUTS[layout],
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()},
    }
    stored = _headers(open_weights, folder, report)
    if "quantization_config" in read_json(folder / "config.json"):
        report.facts["keys"] = "not compared, the weights are quantized"
    elif not report.problems:
        report.problems += _compare(folder, layout, model, stored)
        report.facts["keys"] = "compared"
    if alignment is not None:
        alignment_tensors = _headers(open_file, folder / ALIGNMENT, report)
        report.problems += _compare_alignment(folder / ALIGNMENT, alignment, alignment_tensors)
        stored |= alignment_tensors
    parts = by_part(model, alignment)
    if layout == ZIYA:
        parts.pop("language_model", None)
    report.facts["parameters"] = {name: count(part) for name, part in parts.items()}
    report.facts["dtypes"] = dict(Counter(str(t.dtype).removeprefix("torch.") for t in stored.values()))
    _chat(folder, layout, report)
    report.facts["memory_to_run"] = _memory(model, parts, machine)
    if not any(row["fits_ram"] or row["fits_gpu"] for row in report.facts["memory_to_run"].values()):
        report.problems.append(
            f"{folder}: too large for this machine even in int8; see the table, or close other programs"
        )
    return report


def _architecture(folder: Path) -> tuple[str, nn.Module, Alignment | None]:
    """Return the layout, and the network on the meta device."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; give the folder of a checkpoint")
    try:
        stored = read_json(folder / "config.json")
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            if config.model_type == "blip-2":
                model = ZiyaVisualModel._from_config(config)
                if stored.get("architectures") == ["ZiyaBlip2ForCausalLM"]:
                    return ZIYA, model, None
                if not (folder / ALIGNMENT).is_file():
                    return BLIP2, model, None
                size = config.image_text_hidden_size
                return OURS, model, Alignment(config.qformer_config, projection_size=size)
            if config.model_type == "instructblip":
                return "instructblip", InstructBlipForConditionalGeneration._from_config(config), None
            return "language model", AutoModelForCausalLM.from_config(config), None
    except (OSError, ValueError, TypeError, DataError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'}: not a supported configuration ({one_line(error, 160)})"
        ) from error


def _headers(opened: Callable[[Path], Weights], path: Path, report: Report) -> dict[str, Tensor]:
    """Return name -> meta tensor of the stored shape and dtype; an unreadable file becomes a problem."""
    try:
        entries = opened(path)
    except CheckpointError as error:
        report.problems.append(str(error))
        return {}
    return {
        name: torch.empty(entry.shape, dtype=entry.dtype, device="meta") for name, entry in entries.items()
    }


def _compare(folder: Path, layout: str, model: Any, stored: dict[str, Tensor]) -> list[str]:
    """Return lines for missing, unexpected and mismatched keys, under the names that transformers loads."""
    _, info = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=stored,
        device_map="meta",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    missing = info["missing_keys"]
    if layout == ZIYA:
        missing = {key for key in missing if not key.startswith("language_model.")}
    shapes = {name: (tuple(actual), tuple(expected)) for name, actual, expected in info["mismatched_keys"]}
    return _lines(folder, missing, set(info["unexpected_keys"]), shapes)


def _compare_alignment(path: Path, alignment: Alignment, stored: dict[str, Tensor]) -> list[str]:
    if not stored:
        return []  # an unreadable file is a problem already
    expected = {name: tuple(tensor.shape) for name, tensor in alignment.state_dict().items()}
    shapes = {
        name: (tuple(stored[name].shape), shape)
        for name, shape in expected.items()
        if name in stored and tuple(stored[name].shape) != shape
    }
    return _lines(path, expected.keys() - stored.keys(), stored.keys() - expected.keys(), shapes)


def _lines(where: Path, missing: Any, unexpected: Any, shapes: dict[str, tuple[Any, Any]]) -> list[str]:
    lines = []
    if missing:
        lines.append(
            f"{where}: {len(missing)} keys missing, such as {min(missing)!r}; the file is incomplete"
        )
    if unexpected:
        first = min(unexpected)
        lines.append(f"{where}: {len(unexpected)} keys unknown to this architecture, such as {first!r}")
    if shapes:
        name, (actual, expected) = min(shapes.items())
        lines.append(
            f"{where}: {len(shapes)} keys with the wrong shape, such as {name!r}: found {list(actual)}, "
            f"expected {list(expected)} from config.json"
        )
    return lines


def _chat(folder: Path, layout: str, report: Report) -> None:
    """Add the chat format, written out; only a checkpoint of ours must have a usable tokenizer."""
    try:
        chat = ChatFormat(AutoTokenizer.from_pretrained(folder))
        ids = chat.branch([Message("user", "…")], add_generation_prompt=True).ids
        report.facts["chat_format"] = chat.tokenizer.decode(ids)
    except (OSError, ValueError, CheckpointError) as error:
        report.facts["chat_format"] = None
        if layout == OURS:
            report.problems.append(f"{folder}: the tokenizer: {one_line(error, 160)}")


def _memory(
    model: nn.Module, parts: dict[str, list[nn.Parameter]], machine: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the bytes of weights, and of keys and values of ``CONTEXT`` tokens, by precision."""
    total = sum(count(part) for part in parts.values())
    linear, rows = _linear(model) if "language_model" in parts else (0, 0)
    weights = {"fp32": 4 * total, "bf16": 2 * total, "int8": 2 * (total - linear) + linear + 4 * rows}
    table = {}
    for name, size in weights.items():
        needed = size + _keys_and_values(model.config, bytes_each=4 if name == "fp32" else 2)
        table[name] = {
            "weights_bytes": size,
            "total_bytes": needed,
            "fits_ram": fits(needed, machine["ram"]["available_bytes"]),
            "fits_gpu": any(fits(needed, gpu["total_bytes"]) for gpu in machine["cuda"]),
        }
    return table


def _linear(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of weights and rows in the LM blocks' linear layers, which int8 stores in a byte."""
    layers = [
        layer
        for name, layer in getattr(model, "language_model", model).named_modules()
        if isinstance(layer, nn.Linear) and any(piece.isdigit() for piece in name.split("."))
    ]
    return sum(layer.weight.numel() for layer in layers), sum(layer.out_features for layer in layers)


def _keys_and_values(config: Any, *, bytes_each: int) -> int:
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * CONTEXT * bytes_each
