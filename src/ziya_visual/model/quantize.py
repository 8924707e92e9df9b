"""Quantization of the language model's linear layers: torchao for exports, bitsandbytes for QLoRA.

torchao's files keep its own format. int8 has one scale per row. int4 has a scale and a zero point per group
of columns and stores a byte per value, since torchao's packed int4 needs GPU kernels and could not be opened
on a CPU.
"""

from __future__ import annotations

import json
import math
import struct
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, Blip2ForConditionalGeneration, TorchAoConfig

from ziya_visual.core.errors import CheckpointError, ConfigError

Method = Literal["int8", "int4"]
LARGEST_GROUP, SMALLEST_GROUP = 128, 8  # columns that share an int4 scale


def require_torchao() -> None:
    """Raise ``ConfigError`` if torchao is not installed."""
    if find_spec("torchao") is None:
        raise ConfigError("--quantize needs torchao, which is absent: pip install 'ziya-visual[quantize]'")


def qlora_config(kind: str) -> BitsAndBytesConfig:
    """Return the bitsandbytes config of a frozen language model under adapters; the head stays as it is."""
    if find_spec("bitsandbytes") is None:
        raise ConfigError("model.quantize needs bitsandbytes, which is absent: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["vision_model", "qformer", "language_projection", "lm_head"],
    )


def quantize_folder(folder: Path, method: Method) -> None:
    """Replace the weights and the config of a stock BLIP-2 folder by quantized ones."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    config = _torchao_config(folder, model, method)
    del model
    quantized = Blip2ForConditionalGeneration.from_pretrained(folder, quantization_config=config)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:  # the old files may still be memory-mapped
        quantized.save_pretrained(temporary)
        for old in folder.glob("model*.safetensors*"):
            old.unlink()
        for new in Path(temporary).iterdir():
            new.rename(folder / new.name)
    for path in folder.glob("model*.safetensors"):
        _list_only_linears(path)


def _torchao_config(folder: Path, model: Any, method: Method) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    head = model.language_model.get_output_embeddings()
    modules = dict(model.language_model.named_modules())
    skipped = [name for name, _ in model.named_children() if name != "language_model"]
    skipped += [f"language_model.{name}" for name, module in modules.items() if module is head]
    widths = [m.in_features for m in modules.values() if isinstance(m, nn.Linear) and m is not head]
    if not widths:
        name = type(model.language_model).__name__
        raise CheckpointError(f"{folder}: {name} has no nn.Linear layer that torchao could quantize")
    if method == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=skipped)
    group = math.gcd(LARGEST_GROUP, *widths)
    if group < SMALLEST_GROUP:
        raise CheckpointError(
            f"{folder}: layers of widths {sorted(set(widths))} have no common group of {SMALLEST_GROUP} "
            "columns for int4; use int8"
        )
    int4 = torch.int4  # type: ignore[attr-defined]
    config = IntxWeightOnlyConfig(weight_dtype=int4, granularity=PerGroup(group))
    return TorchAoConfig(config, modules_to_not_convert=skipped)


def _list_only_linears(path: Path) -> None:
    """Remove plain weights without a dot in their names from the header's list of torchao's tensors.

    torchao 0.18 splits each listed name at its last dot and fails on BLIP-2's ``query_tokens``, which opens
    without torchao. The header keeps its length, padded with spaces.
    """
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        metadata = header["__metadata__"]
        names = json.loads(metadata["tensor_names"])
        metadata["tensor_names"] = json.dumps([name for name in names if "." in name])
        content = json.dumps(header, separators=(",", ":")).encode()
        assert len(content) <= size, "names were only removed"
        file.seek(8)
        file.write(content.ljust(size))
