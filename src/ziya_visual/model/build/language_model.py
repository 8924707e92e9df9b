"""A language model's folder as a part of a new checkpoint: its weights by their names, one token more."""

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

from ziya_visual.core.errors import CheckpointError, ConfigError, one_line
from ziya_visual.core.files import atomic_dir, read_json
from ziya_visual.data.chat.chat_format import IMAGE
from ziya_visual.model.build.weights import (
    SHARD_BYTES,
    Entry,
    Weights,
    open_weights,
    refuse_keys,
    write_weights,
)
from ziya_visual.model.checkpoint import local_folder
from ziya_visual.model.processor import add_image_token, open_tokenizer


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model that has learnt the token ``<image>``.

    Attributes:
        config: its configuration, with the grown vocabulary.
        weights: under stock names, embeddings grown; tied ones once.
        tokenizer: with ``<image>``.
        image_id: the token's id.
        as_named: whether the files' names are the network's; where transformers converts them while it loads
            (experts in one tensor, for example), names and shapes can be compared only then.
        folder: where it was read.
    """

    config: Any
    weights: Weights
    tokenizer: Any
    image_id: int
    as_named: bool
    folder: Path


def read_language_model(folder: Path) -> LanguageModel:
    """Open a folder of any ``AutoModelForCausalLM`` and grow it by ``<image>``; no weight is read yet.

    Rows that the embeddings have to spare are used before new ones are made; those are the mean of the old.

    Raises:
        CheckpointError: a file is missing or damaged, it is no causal language model, or its tokenizer owns
            ``<image>`` already.
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
            f"{folder}: the tokenizer owns {IMAGE} already (id {tokenizer.convert_tokens_to_ids(IMAGE)}), "
            "expected one without it; give the language model's own folder, before it was taught pictures"
        )
    add_image_token(tokenizer)
    weights = _named(folder, network, open_weights(folder))
    rows, old = max(config.vocab_size, len(tokenizer)), config.vocab_size
    for key in _vocabulary_keys(network) & weights.keys():
        weights[key] = _grown(weights[key], old, rows)
    config.vocab_size = rows
    image_id = int(tokenizer.convert_tokens_to_ids(IMAGE))
    renamed_by_stock = get_model_conversion_mapping(network, add_legacy=False)
    return LanguageModel(config, weights, tokenizer, image_id, not renamed_by_stock, folder)


def _named(folder: Path, network: Any, found: Weights) -> Weights:
    """The weights as a model inside another needs them: whole names, nothing that stock would pass over."""
    prefix = f"{network.base_model_prefix}."
    if not any(key.startswith(prefix) for key in found):  # saved from the model without its head
        inner = set(getattr(network, network.base_model_prefix).state_dict())
        found = {prefix + key if key in inner else key: entry for key, entry in found.items()}
    ignored = network._keys_to_ignore_on_load_unexpected or ()
    found = {key: e for key, e in found.items() if not any(re.search(pattern, key) for pattern in ignored)}
    for target, source in network.all_tied_weights_keys.items():
        other = found.pop(target, None)
        if other is None:
            continue
        if source not in found:
            found[source] = other
        elif not torch.equal(other.read(), found[source].read()):
            raise CheckpointError(
                f"{folder / 'config.json'}: ties {target} to {source}, but their weights differ; "
                "set tie_word_embeddings to false there"
            )
    return found


def _vocabulary_keys(network: Any) -> set[str]:
    """The names of all parameters with a row a token: input embeddings, output embeddings and its bias."""
    modules: tuple[nn.Module, ...] = (network.get_input_embeddings(), network.get_output_embeddings())
    return {
        f"{name}.{parameter}"
        for name, module in network.named_modules()
        if any(module is one for one in modules)
        for parameter, _ in module.named_parameters(recurse=False)
    }


def _grown(entry: Entry, old: int, rows: int) -> Entry:
    """The tensor with new rows behind the old."""
    if entry.shape[0] != old:
        raise entry.refuse(f"of {entry.shape[0]} rows", f"{old}, the vocab_size of its config.json")

    def read() -> Tensor:
        tensor = entry.read()
        mean = tensor.mean(0, keepdim=True, dtype=torch.float32).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(rows - old, *tensor.shape[1:])])

    return Entry(entry.file, entry.key, (rows, *entry.shape[1:]), entry.dtype, read) if rows > old else entry


def ends_at(own: int | list[int] | None, end: int) -> int | list[int]:
    """``eos_token_id`` of a generation config: where our answers end, and where the model's own says."""
    ends = own if isinstance(own, list) else [] if own is None else [own]
    ends = list(dict.fromkeys([end, *ends]))
    return ends if len(ends) > 1 else end


COPIED = (".json", ".model", ".txt", ".jinja")


def apply_delta(
    *, base: str | Path, delta: str | Path, out: Path, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write base + delta, tensor by tensor, in the delta's dtype; settings and tokenizer are the delta's.

    Where the delta's vocabulary is larger, the base counts as zero in the new rows.

    Args:
        base: folder or hub id.
        delta: folder or hub id.
        out: the new folder.
        shard_bytes: the largest weights file.

    Returns:
        What was done, to be shown.

    Raises:
        ConfigError: ``out`` is there already.
        CheckpointError: a file is missing or damaged, or the two have other keys or shapes.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: there already; name a new folder")
    below, above = local_folder(base), local_folder(delta)
    bases, deltas = open_weights(below), open_weights(above)
    missing, extra = deltas.keys() - bases.keys(), bases.keys() - deltas.keys()
    refuse_keys(f"base {below} under delta {above}", missing, extra, of="the delta")
    rows = (_vocabulary(below), _vocabulary(above))
    summed = {key: _sum(bases[key], entry, rows) for key, entry in deltas.items()}
    with atomic_dir(out) as aside:
        write_weights(aside, summed, shard_bytes=shard_bytes)
        for file in sorted(above.iterdir()):
            if file.suffix in COPIED and not file.name.endswith(".index.json"):
                shutil.copyfile(file, aside / file.name)
    grown = sum(bases[key].shape != entry.shape for key, entry in deltas.items())
    return {"tensors": len(summed), "with new rows": grown, "vocabulary": rows[1], "written": str(out)}


def _vocabulary(folder: Path) -> int:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: config.json not found there")
    size = read_json(path).get("vocab_size")
    if not isinstance(size, int):
        raise CheckpointError(f"{path}: vocab_size is {size!r}, expected a number")
    return size


def _sum(base: Entry, delta: Entry, rows: tuple[int, int]) -> Entry:
    """Their sum, of the delta's shape; ``rows`` are the vocabularies of both."""
    more = base.shape[:1] + delta.shape[:1] == rows and rows[1] > rows[0]
    if base.shape != delta.shape and not (more and base.shape[1:] == delta.shape[1:]):
        expected = f"{list(base.shape)} as in {base.file}, or more rows where the vocabulary has grown"
        raise delta.refuse(f"of shape {list(delta.shape)}", expected)

    def read() -> Tensor:
        total = delta.read().to(torch.float32, copy=True)
        lower = base.read().float()
        if base.shape == delta.shape:
            total += lower
        else:
            total[: len(lower)] += lower
        return total.to(delta.dtype)

    return Entry(delta.file, delta.key, delta.shape, delta.dtype, read)
