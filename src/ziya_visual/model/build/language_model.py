"""A language model's folder as a part of a new checkpoint, and ``apply-delta``, which restores such a folder.

Some models, such as Ziya-LLaMA-13B, were released as the difference from LLaMA, whose weights only their
owner may give out; adding the two restores the model. Ziya's authors left the embeddings and the head out of
the subtraction and shipped them whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError, ConfigError, one_line
from ziya_visual.core.files import atomic_dir, hash_json, read_json
from ziya_visual.data.chat.chat_format import IMAGE
from ziya_visual.model.build.weights import (
    SHARD_BYTES,
    Entry,
    Weights,
    open_weights,
    refuse_keys,
    require_new_folder,
    write_weights,
)
from ziya_visual.model.checkpoint import local_folder
from ziya_visual.model.processor import add_image_token, open_tokenizer

SETTINGS = (".json", ".model", ".txt", ".jinja")  # suffixes of the files that apply-delta copies
WHOLE = ("embed_tokens", "lm_head", "rotary_emb")  # modules that the authors' make_delta does not subtract


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model with the token ``<image>`` added.

    ``as_named`` tells whether the files use the network's names. If transformers converts names while loading
    (experts in one tensor, for example), names and shapes cannot be compared before.
    """

    config: Any  # with the grown vocabulary
    weights: Weights  # under stock names with grown embeddings; tied weights appear once
    tokenizer: Any
    image_id: int
    as_named: bool
    folder: Path


def read_language_model(folder: Path) -> LanguageModel:
    """Open a folder of any ``AutoModelForCausalLM`` and add ``<image>``, without reading weights yet.

    Spare rows of the embeddings are used first; new rows are the mean of the old ones.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no language model there, config.json not found")
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise CheckpointError(
                f"{folder / 'config.json'}: model_type is {config.model_type!r}, expected a causal language "
                "model that transformers knows"
            )
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: cannot be opened as a causal language model ({one_line(error)})"
        ) from error
    tokenizer = open_tokenizer(folder)
    if IMAGE in tokenizer.get_vocab():
        raise CheckpointError(
            f"{folder}: the tokenizer already has {IMAGE} (id {tokenizer.convert_tokens_to_ids(IMAGE)}); "
            "give the folder of the language model itself, from before images were added"
        )
    add_image_token(tokenizer)
    weights = _full_names(folder, network, open_weights(folder))
    rows, old = max(config.vocab_size, len(tokenizer)), config.vocab_size
    for key in _vocabulary_keys(network) & weights.keys():
        weights[key] = _grow(weights[key], old, rows)
    config.vocab_size = rows
    image_id = int(tokenizer.convert_tokens_to_ids(IMAGE))
    converted_by_stock = get_model_conversion_mapping(network, add_legacy=False)
    return LanguageModel(config, weights, tokenizer, image_id, not converted_by_stock, folder)


def _full_names(folder: Path, network: Any, weights: Weights) -> Weights:
    """Return the weights under full names, tied ones once, without those that stock ignores."""
    prefix = f"{network.base_model_prefix}."
    if not any(key.startswith(prefix) for key in weights):  # saved from the model without its head
        inner = set(getattr(network, network.base_model_prefix).state_dict())
        weights = {prefix + key if key in inner else key: entry for key, entry in weights.items()}
    ignored = network._keys_to_ignore_on_load_unexpected or ()
    weights = {key: e for key, e in weights.items() if not any(re.search(p, key) for p in ignored)}
    for target, source in network.all_tied_weights_keys.items():
        tied = weights.pop(target, None)
        if tied is None:
            continue
        if source not in weights:
            weights[source] = tied
        elif not torch.equal(tied.read(), weights[source].read()):
            raise CheckpointError(
                f"{folder / 'config.json'}: it ties {target} to {source}, but their weights differ; set "
                "tie_word_embeddings to false there"
            )
    return weights


def _vocabulary_keys(network: Any) -> set[str]:
    """Return the names of all parameters with a row per token: input and output embeddings and bias."""
    modules: tuple[nn.Module, ...] = (network.get_input_embeddings(), network.get_output_embeddings())
    return {
        f"{name}.{parameter}"
        for name, module in network.named_modules()
        if any(module is embedding for embedding in modules)
        for parameter, _ in module.named_parameters(recurse=False)
    }


def _grow(entry: Entry, old: int, rows: int) -> Entry:
    """Append mean rows to a tensor until it has ``rows``."""
    if entry.shape[0] != old:
        raise entry.mismatch(f"of {entry.shape[0]} rows", f"{old}, the vocab_size of its config.json")

    def read() -> Tensor:
        tensor = entry.read()
        mean = tensor.mean(0, keepdim=True, dtype=torch.float32).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(rows - old, *tensor.shape[1:])])

    return Entry(entry.file, entry.key, (rows, *entry.shape[1:]), entry.dtype, read) if rows > old else entry


def end_token_ids(existing: int | list[int] | None, end: int) -> int | list[int]:
    """Return ``eos_token_id`` of a generation config: our answers' end token, then the existing ones."""
    existing_ids = existing if isinstance(existing, list) else [] if existing is None else [existing]
    ids = list(dict.fromkeys([end, *existing_ids]))
    return ids if len(ids) > 1 else end


def apply_delta(
    *,
    base: str | Path,
    delta: str | Path,
    out: Path,
    whole: Sequence[str] = WHOLE,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write base + delta tensor by tensor, in the delta's dtype and with its settings and tokenizer.

    Args:
        base: folder or hub id.
        delta: folder or hub id. If its vocabulary is larger, the base counts as zero in the new rows.
        out: new folder.
        whole: parts of tensor names, between dots; tensors with one are taken from the delta as they are.
        shard_bytes: largest weights file.

    Returns:
        A summary to show. ``sha256`` covers names, shapes and bytes of all tensors, however they are sharded.

    Raises:
        ConfigError: ``out`` exists, or the delta has no tensor of a name that was given.
        CheckpointError: a file is damaged, keys or shapes do not fit, or a sum is not finite.
    """
    require_new_folder(out)
    base_folder, delta_folder = local_folder(base), local_folder(delta)
    bases, deltas = open_weights(base_folder), open_weights(delta_folder)
    taken = sorted(key for key in deltas if set(whole).intersection(key.split(".")))
    if tuple(whole) != WHOLE and (
        unknown := set(whole) - {part for key in deltas for part in key.split(".")}
    ):
        raise ConfigError(f"--whole {min(unknown)}: no tensor of the delta has this name")
    summed = [key for key in deltas if key not in taken]
    missing, unexpected = summed - bases.keys(), bases.keys() - deltas.keys()
    refuse_keys(f"base {base_folder} under delta {delta_folder}", missing, unexpected, of="the delta")
    log.logger.info("taken whole from the delta: %s", ", ".join(taken) or "nothing")
    log.logger.info("summed with the base: %d tensors", len(summed))
    log.logger.debug("summed with the base: %s", ", ".join(sorted(summed)))
    rows = (_vocabulary_size(base_folder), _vocabulary_size(delta_folder))
    weights = {key: entry if key in taken else _sum(bases[key], entry, rows) for key, entry in deltas.items()}
    digests: dict[str, str] = {}
    checked = {key: _checked(key, entry, digests) for key, entry in weights.items()}
    with atomic_dir(out) as temporary:
        write_weights(temporary, checked, shard_bytes=shard_bytes)
        for file in sorted(delta_folder.iterdir()):
            if file.suffix in SETTINGS and not file.name.endswith(".index.json"):
                shutil.copyfile(file, temporary / file.name)
    counts = {"taken whole": len(taken), "summed": len(summed), "vocabulary": rows[1]}
    return {**counts, "sha256": hash_json(dict(sorted(digests.items()))), "written": str(out)}


def _checked(key: str, entry: Entry, digests: dict[str, str]) -> Entry:
    """Return an entry that refuses values that are not finite, and adds its tensor's hash to ``digests``."""

    def read() -> Tensor:
        tensor = entry.read().contiguous()
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{key}: base plus delta is not finite; is the base the one the delta was made from?"
            )
        header = f"{tensor.dtype}{list(tensor.shape)}".encode()
        digests[key] = hashlib.sha256(
            header + tensor.flatten().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        return tensor

    return replace(entry, read=read)


def _vocabulary_size(folder: Path) -> int:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: config.json not found there")
    size = read_json(path).get("vocab_size")
    if not isinstance(size, int):
        raise CheckpointError(f"{path}: vocab_size is {size!r}, expected a number")
    return size


def _sum(base: Entry, delta: Entry, rows: tuple[int, int]) -> Entry:
    """Return their sum in the delta's shape; ``rows`` are the vocabulary sizes of base and delta."""
    grown = base.shape[:1] + delta.shape[:1] == rows and rows[1] > rows[0]
    if base.shape != delta.shape and not (grown and base.shape[1:] == delta.shape[1:]):
        expected = f"{list(base.shape)} as in {base.file}, or more rows if the vocabulary has grown"
        raise delta.mismatch(f"of shape {list(delta.shape)}", expected)

    def read() -> Tensor:
        total = delta.read().to(torch.float32, copy=True)
        addend = base.read().float()
        shared = total if base.shape == delta.shape else total[: len(addend)]
        shared += addend
        return total.to(delta.dtype)

    return Entry(delta.file, delta.key, delta.shape, delta.dtype, read)
