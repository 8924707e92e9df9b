"""Weight-only quantization of the language model's linear layers by torchao, in its own file format.

int8 keeps a scale a row. int4 keeps a scale and zero point a group of columns, and its values a byte each:
torchao's packed int4 needs kernels that there are for GPUs only, and its files could not be opened on a CPU.
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
    """Raise ``ConfigError`` where torchao is not installed."""
    if find_spec("torchao") is None:
        raise ConfigError("--quantize needs torchao, which is absent: pip install 'ziya-visual[quantize]'")


def qlora_config(kind: str) -> BitsAndBytesConfig:
    """How bitsandbytes is to read a language model that adapters are trained on (QLoRA); its head stays.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError("model.quantize needs bitsandbytes, which is absent: pip install bitsandbytes")
    whole = ["vision_model", "qformer", "language_projection", "lm_head"]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=whole,
    )


def quantize_folder(folder: Path, method: Method) -> None:
    """Replace the weights and the config of a stock BLIP-2 folder by quantized ones.

    Raises:
        CheckpointError: the language model has no linear layers, or of widths that int4 cannot group.
    """
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    config = _config(folder, model, method)
    del model
    quantized = Blip2ForConditionalGeneration.from_pretrained(folder, quantization_config=config)
    with tempfile.TemporaryDirectory(dir=folder) as aside:  # the old files may still be mapped into memory
        quantized.save_pretrained(aside)
        for old in folder.glob("model*.safetensors*"):
            old.unlink()
        for new in Path(aside).iterdir():
            new.rename(folder / new.name)
    for path in folder.glob("model*.safetensors"):
        _describe_only_linears(path)


def _config(folder: Path, model: Any, method: Method) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    head = model.language_model.get_output_embeddings()
    named = dict(model.language_model.named_modules())
    kept = [name for name, _ in model.named_children() if name != "language_model"]
    kept += [f"language_model.{name}" for name, module in named.items() if module is head]
    widths = [m.in_features for m in named.values() if isinstance(m, nn.Linear) and m is not head]
    if not widths:
        name = type(model.language_model).__name__
        raise CheckpointError(f"{folder}: {name} has no nn.Linear layer that torchao could quantize")
    if method == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)
    group = math.gcd(LARGEST_GROUP, *widths)
    if group < SMALLEST_GROUP:
        raise CheckpointError(
            f"{folder}: layers {sorted(set(widths))} wide have no common group of {SMALLEST_GROUP} columns "
            "for int4; use int8"
        )
    four_bits = torch.int4  # type: ignore[attr-defined]
    form = IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=PerGroup(group))
    return TorchAoConfig(form, modules_to_not_convert=kept)


def _describe_only_linears(path: Path) -> None:
    """Take plain weights without a dot in their names out of the header's list of what torchao wrote.

    torchao 0.18 splits each listed name at its last dot and fails on BLIP-2's ``query_tokens``, which it
    need not look at: plain weights are opened without it. The header keeps its length, filled with spaces.
    """
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        metadata = header["__metadata__"]
        listed = json.loads(metadata["tensor_names"])
        metadata["tensor_names"] = json.dumps([name for name in listed if "." in name])
        written = json.dumps(header, separators=(",", ":")).encode()
        assert len(written) <= size, "only names were taken out"
        file.seek(8)
        file.write(written.ljust(size))
