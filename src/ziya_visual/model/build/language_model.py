"""A language model's folder as a part of a new checkpoint, and ``apply-delta``, which restores such a folder.

Some models, such as Ziya-LLaMA-13B, were released as the difference from LLaMA, whose weights only their
owner may give out; adding the two restores the model.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ziya_visual.core.errors import CheckpointError, one_line
from ziya_visual.core.files import atomic_dir, read_json
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
    *, base: str | Path, delta: str | Path, out: Path, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write base + delta tensor by tensor, in the delta's dtype and with its settings and tokenizer.

    ``base`` and ``delta`` are folders or hub ids. If the delta's vocabulary is larger, the base counts as
    zero in the new rows. The result is a summary to show.
    """
    require_new_folder(out)
    base_folder, delta_folder = local_folder(base), local_folder(delta)
    bases, deltas = open_weights(base_folder), open_weights(delta_folder)
    missing, unexpected = deltas.keys() - bases.keys(), bases.keys() - deltas.keys()
    refuse_keys(f"base {base_folder} under delta {delta_folder}", missing, unexpected, of="the delta")
    rows = (_vocabulary_size(base_folder), _vocabulary_size(delta_folder))
    sums = {key: _sum(bases[key], entry, rows) for key, entry in deltas.items()}
    with atomic_dir(out) as temporary:
        write_weights(temporary, sums, shard_bytes=shard_bytes)
        for file in sorted(delta_folder.iterdir()):
            if file.suffix in SETTINGS and not file.name.endswith(".index.json"):
                shutil.copyfile(file, temporary / file.name)
    grown = sum(bases[key].shape != entry.shape for key, entry in deltas.items())
    return {"tensors": len(sums), "with new rows": grown, "vocabulary": rows[1], "written": str(out)}


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
