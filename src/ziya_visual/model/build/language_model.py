"""A language model's folder as a part of a new checkpoint: its weights by their names, one token more."""

from __future__ import annotations

import re
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
from ziya_visual.data.chat.chat_format import IMAGE
from ziya_visual.model.tokenizers import add_image_token, open_tokenizer
from ziya_visual.model.build.weights import Entry, Weights, open_weights


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
        raise CheckpointError(f"{folder}: cannot be opened as a causal language model ({one_line(error, 160)})") from error
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
