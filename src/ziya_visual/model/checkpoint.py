"""Checkpoints: a stock BLIP-2 or InstructBLIP folder with ``alignment.safetensors`` beside the weights.

The weights have exactly the keys of the stock class, with adapters merged. A Q-Former with its own tokenizer
keeps it in ``qformer_tokenizer/``.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from transformers import Blip2Config, InstructBlipConfig
from transformers.utils import logging

from ziya_visual.core.errors import CheckpointError, DataError, one_line
from ziya_visual.core.files import atomic_dir, read_json, write_json
from ziya_visual.model.build.weights import check_weights, open_file, open_weights, refuse_keys
from ziya_visual.model.lora import ADAPTER_FILE, adapter_base, load_adapter, merge_lora
from ziya_visual.model.network import Alignment, VisualModel, ZiyaInstructModel, ZiyaVisualModel
from ziya_visual.model.processor import (
    QFORMER_TOKENIZER,
    SETTINGS,
    ZiyaProcessor,
    load_processor,
    open_qformer_tokenizer,
)

ALIGNMENT = "alignment.safetensors"
LANGUAGE_MODEL = "language_model."
CONFIGS: dict[str, Any] = {"blip-2": Blip2Config, "instructblip": InstructBlipConfig}
Dtype = torch.dtype | str
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FETCHED = ["*.json", "*.model", "*.txt", "*.jinja"]  # besides the weights


def local_folder(checkpoint: str | Path) -> Path:
    """Return the folder of a checkpoint, fetching a hub id such as ``Salesforce/blip2-opt-2.7b`` once.

    A repository with both safetensors and pickles is fetched without the pickles.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(str(checkpoint)):
        raise CheckpointError(f"{checkpoint}: no such folder, and not a hub id of the form owner/name")
    from httpx2 import HTTPError  # raised by huggingface_hub
    from huggingface_hub import list_repo_files, snapshot_download

    name = str(checkpoint)
    try:
        files = list_repo_files(name)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
        return Path(snapshot_download(name, allow_patterns=[*FETCHED, weights]))
    except (OSError, ValueError, HTTPError) as error:
        try:
            return Path(snapshot_download(name, local_files_only=True))  # fetched earlier, now offline
        except (OSError, ValueError):
            raise CheckpointError(
                f"{name}: no such folder, and fetching it from the hub failed ({one_line(error)})"
            ) from error


def read_config(folder: Path) -> Any:
    """Read the configuration of a BLIP-2 or InstructBLIP folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no checkpoint there, config.json not found")
    try:
        kind = read_json(path).get("model_type")
        if kind not in CONFIGS:
            raise CheckpointError(f"{path}: model_type is {kind!r}, expected {' or '.join(CONFIGS)}")
        return CONFIGS[kind].from_pretrained(folder)
    except (DataError, StrictDataclassError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error


def save_checkpoint(
    folder: Path, *, model: VisualModel, alignment: Alignment | None, processor: ZiyaProcessor
) -> None:
    """Write a complete checkpoint folder atomically; the model in memory keeps its adapters."""
    merged = model
    if hasattr(model.language_model, "merge_and_unload"):
        merged = copy.deepcopy(model)
        merge_lora(merged)
    instruct = isinstance(model, ZiyaInstructModel)
    with atomic_dir(folder) as temporary:
        merged.save_pretrained(temporary)
        config = temporary / "config.json"
        write_json(config, {**read_json(config), "architectures": [model.stock_name]})
        if alignment is not None:
            save_alignment(temporary, alignment)
        tokenizer = model.qformer_tokenizer if instruct else alignment and alignment.qformer_tokenizer
        save_tokenizers(temporary, processor, tokenizer, instruction_aware=instruct)


def save_alignment(folder: Path, alignment: Alignment) -> None:
    """Write ``alignment.safetensors``."""
    save_file({name: t.contiguous() for name, t in alignment.state_dict().items()}, folder / ALIGNMENT)


def save_tokenizers(
    folder: Path, processor: ZiyaProcessor, qformer_tokenizer: Any | None, *, instruction_aware: bool
) -> None:
    """Write the processor's files and the Q-Former's own tokenizer, if any.

    An instruction-aware checkpoint gets the settings that stock ``InstructBlipProcessor`` reads.
    """
    processor.save_pretrained(folder)
    if qformer_tokenizer is not None:
        qformer_tokenizer.save_pretrained(folder / QFORMER_TOKENIZER)
    if instruction_aware:
        settings = {"num_query_tokens": processor.num_query_tokens}
        write_json(folder / SETTINGS, {"processor_class": "InstructBlipProcessor", **settings})


def load_checkpoint(
    folder: Path, *, attention: str | None = None, dtype: Dtype = "auto", quantization: Any = None
) -> tuple[VisualModel, Alignment | None, ZiyaProcessor]:
    """Open a checkpoint folder in evaluation mode.

    Args:
        folder: one of ours, one of stock BLIP-2 or InstructBLIP with a causal language model, or an adapter
            folder, which is merged into its base.
        attention: transformers' name of an attention for all parts, or None for each part's default.
        dtype: dtype of the weights in memory; ``auto`` keeps the saved one.
        quantization: transformers' config of a quantization to apply while loading, or None.

    Returns:
        The network; its alignment, or None if the folder has none; and the processor.
    """
    if (folder / ADAPTER_FILE).is_file():
        base = adapter_base(folder)
        model, alignment, processor = load_checkpoint(base, attention=attention, dtype=dtype)
        if alignment is None or not isinstance(model, ZiyaVisualModel):
            raise CheckpointError(f"{base}: {ALIGNMENT} not found; the base of an adapter needs it")
        load_adapter(folder, model=model, alignment=alignment)
        merge_lora(model)
        return model.eval(), alignment, processor
    config = read_config(folder)
    if not config.use_decoder_only_language_model:
        raise CheckpointError(
            f"{folder / 'config.json'}: the language model is {config.text_config.model_type!r}, "
            "expected a causal one"
        )
    processor = load_processor(folder, config)
    kwargs: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if quantization is not None:
        kwargs["quantization_config"] = quantization
    model = _load_network(folder, config, dtype, **kwargs)
    alignment = None
    tokenizer = open_qformer_tokenizer(folder)
    if isinstance(model, ZiyaInstructModel):
        if tokenizer is None:
            raise CheckpointError(f"{folder}: {QFORMER_TOKENIZER}/ not found; it tokenizes the questions")
        model.qformer_tokenizer = tokenizer
    elif (folder / ALIGNMENT).is_file():
        alignment = _load_alignment(folder, config, model.qformer.layernorm.weight.dtype)
        alignment.qformer_tokenizer = tokenizer
    return model, alignment, processor


def _load_network(folder: Path, config: Any, dtype: Dtype, **kwargs: Any) -> VisualModel:
    weights = open_weights(folder)  # headers only: damaged or missing files are named before stock fails
    if not any(key.startswith(LANGUAGE_MODEL) for key in weights):
        raise CheckpointError(
            f"{folder}: it contains no language model; join one with `init --bridge {folder} --llm ... --out "
            "...`"
        )
    kind = ZiyaInstructModel if config.model_type == "instructblip" else ZiyaVisualModel
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # stock would print a table of the keys that our own error names
    try:
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **kwargs,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({one_line(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    for key, shape, expected in sorted(info["mismatched_keys"]):
        raise weights[key].mismatch(f"of shape {list(shape)}", f"{list(expected)} by config.json")
    refuse_keys(next(iter(weights.values())).file, info["missing_keys"], info["unexpected_keys"])
    return model.eval()


def _load_alignment(folder: Path, config: Any, dtype: torch.dtype) -> Alignment:
    """Load the alignment in the Q-Former's dtype, since their layers share hidden states."""
    entries = open_file(folder / ALIGNMENT)
    with torch.device("meta"):
        alignment = Alignment(config.qformer_config, projection_size=config.image_text_hidden_size)
    expected = {key: tuple(tensor.shape) for key, tensor in alignment.state_dict().items()}
    check_weights(entries, expected, where=folder / ALIGNMENT)
    state = {key: entry.read().to(dtype) for key, entry in entries.items()}
    alignment.load_state_dict(state, assign=True)
    positions = torch.arange(config.qformer_config.max_position_embeddings)
    alignment.embeddings.position_ids = positions[None]  # a buffer that no file holds
    return alignment.eval()
