"""Checkpoints: a stock BLIP-2 folder, and ``alignment.safetensors`` beside it.

``model.safetensors`` holds exactly the keys of ``Blip2ForConditionalGeneration``, adapters merged.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Blip2Config

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.io import atomic_dir
from ziya_visual.model.adapter_files import RECORD, base_of, load_adapter
from ziya_visual.model.adapters import merge_lora
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor, load_processor

ALIGNMENT = "alignment.safetensors"
FILES = ("config.json", "model.safetensors", ALIGNMENT, "tokenizer.json")


def save_checkpoint(
    folder: Path, *, model: ZiyaVisualModel, alignment: Alignment, processor: ZiyaProcessor
) -> None:
    """Write a whole checkpoint folder, atomically; the model in memory keeps its adapters."""
    merged = model
    if hasattr(model.language_model, "merge_and_unload"):
        merged = copy.deepcopy(model)
        merge_lora(merged)
    with atomic_dir(folder) as aside:
        merged.save_pretrained(aside)
        save_file({name: t.contiguous() for name, t in alignment.state_dict().items()}, aside / ALIGNMENT)
        processor.save_pretrained(aside)


def load_checkpoint(
    folder: Path, *, attention: str | None = None
) -> tuple[ZiyaVisualModel, Alignment, ZiyaProcessor]:
    """Open a checkpoint folder in float32, in evaluation mode.

    Args:
        folder: as :func:`save_checkpoint` writes it; or as ``save_adapter`` does, which opens its base.
        attention: transformers' name of an attention for all parts, or None for each part's default.

    Raises:
        CheckpointError: a file is missing or damaged, or keys are missing or too many; in one line.
    """
    if (folder / RECORD).is_file():
        model, alignment, processor = load_checkpoint(base_of(folder), attention=attention)
        load_adapter(folder, model=model, alignment=alignment)
        merge_lora(model)
        return model.eval(), alignment, processor
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: no checkpoint of ours, {', '.join(missing)} not found there")
    try:
        config = Blip2Config.from_pretrained(folder)
        kwargs: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
        model, info = ZiyaVisualModel.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **kwargs
        )
        state = load_file(folder / ALIGNMENT)
        processor = load_processor(folder, config)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    _refuse(folder, "model.safetensors", info["missing_keys"], info["unexpected_keys"])
    alignment = Alignment(config.qformer_config, projection_size=config.image_text_hidden_size)
    found = alignment.load_state_dict(state, strict=False)
    _refuse(folder, ALIGNMENT, found.missing_keys, found.unexpected_keys)
    return model.eval(), alignment.eval(), processor


def _refuse(folder: Path, name: str, missing: Any, unexpected: Any) -> None:
    if missing or unexpected:
        raise CheckpointError(
            f"{folder / name}: {len(missing)} keys missing (such as {sorted(missing)[:1]}), "
            f"{len(unexpected)} unexpected (such as {sorted(unexpected)[:1]})"
        )
