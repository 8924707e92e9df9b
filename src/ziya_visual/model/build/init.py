"""``init``: a new checkpoint out of a bridge's folder and a language model's, rewritten tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2Config,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    GenerationConfig,
    InstructBlipConfig,
    LlamaConfig,
)

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError, ConfigError, nearest, one_line
from ziya_visual.core.files import atomic_dir, read_json, write_json
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.build.compose import new_alignment
from ziya_visual.model.build.language_model import LanguageModel, ends_at, read_language_model
from ziya_visual.model.build.layouts import LANGUAGE_MODEL, Bridge, instruct_names, read_bridge
from ziya_visual.model.build.weights import SHARD_BYTES, Entry, Weights, check, write_weights
from ziya_visual.model.checkpoint import local_folder, save_alignment, save_tokenizers
from ziya_visual.model.network import VisualModel, ZiyaInstructModel, ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor, add_chat_template, open_tokenizer, same_vocabulary

PROJECTION = "language_projection."
BY_TOKEN = ("embeddings.word_embeddings.weight", "lm_bias")  # of the alignment: a row a token
SEEDED = Path("(new from the seed)")


def init(
    *,
    llm: str | Path,
    out: Path,
    bridge: str | Path | None = None,
    vision_config: Path | None = None,
    qformer_config: Path | None = None,
    qformer_tokenizer: str | Path | None = None,
    instruction_aware: bool = False,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Compose a checkpoint folder.

    Args:
        llm: folder or hub id of any ``AutoModelForCausalLM``.
        out: the new folder.
        bridge: folder or hub id of a BLIP-2, InstructBLIP or Ziya checkpoint, or of one of ours.
        vision_config: without a ``bridge``, JSON with the keywords of ``Blip2VisionConfig``.
        qformer_config: without a ``bridge``, JSON with those of ``Blip2QFormerConfig``, and
            ``num_query_tokens`` and ``image_text_hidden_size`` if they are not BLIP-2's.
        qformer_tokenizer: folder or hub id of a tokenizer for the Q-Former's text side.
        instruction_aware: let the queries see the question, as InstructBLIP does.
        seed: of new weights.
        shard_bytes: the largest weights file, but for a tensor that is larger alone.

    Returns:
        What was taken from where, to be shown.

    Raises:
        ConfigError: neither ``bridge`` nor both configurations are given, or ``out`` is there already.
        CheckpointError: a part cannot be read, or the parts do not fit.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: there already; name a new folder")
    if bridge is not None and vision_config is None and qformer_config is None:
        source = read_bridge(local_folder(bridge))
    elif bridge is None and vision_config is not None and qformer_config is not None:
        source = new_bridge(vision_config, qformer_config, seed=seed)
    else:
        raise ConfigError("give --bridge, or both --vision-config and --qformer-config")
    language = read_language_model(local_folder(llm))
    add_chat_template(language.tokenizer, source.chat_names)
    reader = open_tokenizer(local_folder(qformer_tokenizer)) if qformer_tokenizer is not None else None
    alignment, reader = text_side(source, language.tokenizer, reader, seed=seed)
    weights = {**source.weights, **_projection(source, language, seed)}
    weights |= {LANGUAGE_MODEL + key: entry for key, entry in language.weights.items()}
    if instruction_aware:
        weights = instruct_names(weights | _instructions(source, alignment))
        reader = reader or language.tokenizer
    config = joint_config(source, language, alignment, instruction_aware=instruction_aware)
    _check(config, weights, language)
    processor = ZiyaProcessor(  # before anything is written: a chat template may not do
        language.tokenizer,
        image_size=config.vision_config.image_size,
        num_query_tokens=source.num_query_tokens,
    )
    with atomic_dir(out) as aside:
        write_weights(aside, weights, shard_bytes=shard_bytes)
        config.save_pretrained(aside)
        _write_generation_config(aside, language, processor.chat.eos_id)
        save_tokenizers(aside, processor, reader, instruction_aware=instruction_aware)
        if not instruction_aware:
            save_alignment(aside, alignment)
    projection = weights[f"{PROJECTION}weight"]
    return {
        "parameters": sum(torch.Size(entry.shape).numel() for entry in weights.values()),
        "vision, Q-Former": str(source.source),
        "projection": f"{list(projection.shape)} {'new' if projection.file == SEEDED else 'taken over'}",
        "Q-Former's text": f"{'taken over' if source.text else 'new'}, {_vocabulary(alignment)} tokens",
        "language model": f"{language.folder}, {language.config.vocab_size} tokens",
        "written": str(out),
    }


def new_bridge(vision_config: Path, qformer_config: Path, *, seed: int) -> Bridge:
    """A ViT and a Q-Former from nothing pre-trained.

    Raises:
        ConfigError: a file has a key that its part does not know, or a value that it cannot take.
    """
    vision, qformer = _settings(vision_config), _settings(qformer_config)
    defaults = Blip2Config()
    queries = qformer.pop("num_query_tokens", defaults.num_query_tokens)
    projection_size = qformer.pop("image_text_hidden_size", defaults.image_text_hidden_size)
    # The published ViT's own value, 1e-10, is of use for loading alone: new weights would all but be zero.
    vision.setdefault("initializer_range", 0.02)
    config = Blip2Config(
        vision_config=_built(Blip2VisionConfig, vision, vision_config).to_dict(),
        qformer_config=_built(Blip2QFormerConfig, qformer, qformer_config).to_dict(),
        text_config=LlamaConfig(  # left out again
            hidden_size=8, num_attention_heads=1, num_hidden_layers=0, vocab_size=8
        ).to_dict(),
        num_query_tokens=queries,
        image_text_hidden_size=projection_size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZiyaVisualModel._from_config(config)
    weights = {
        key: Entry.of(tensor, SEEDED, key)
        for key, tensor in model.state_dict().items()
        if not key.startswith((LANGUAGE_MODEL, PROJECTION))
    }
    return Bridge(vision, qformer, queries, projection_size, weights, source=SEEDED)


def _settings(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object of settings, found {type(value).__name__}")
    return {name: setting for name, setting in value.items() if name != "model_type"}


def _built(kind: Any, settings: dict[str, Any], path: Path) -> Any:
    known = set(kind().to_dict())
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
    try:
        return kind(**settings)
    except Exception as error:  # the library's own kinds of validation error
        raise ConfigError(f"{path}: {one_line(error)}") from error


def text_side(bridge: Bridge, tokenizer: Any, own: Any | None, *, seed: int) -> tuple[Alignment, Any | None]:
    """The Q-Former's text side: the bridge's where it has one, else new.

    Args:
        bridge: may have a text side, read by a tokenizer of its own.
        tokenizer: the language model's.
        own: the Q-Former's, or None: then the bridge's where it has a text side, else the language model's.
        seed: of what is new.

    Returns:
        The alignment, and the tokenizer that reads for it; None where that is the language model's. Tokens
        that the bridge's tokenizer knew keep their rows under another tokenizer, found by their spelling.
    """
    reader = own if own is not None else bridge.text_tokenizer or tokenizer
    kept = bridge.text_tokenizer is not None and same_vocabulary(reader, bridge.text_tokenizer)
    rows = bridge.text[BY_TOKEN[0]].shape[0] if kept else len(reader)
    alignment = new_alignment(
        Blip2QFormerConfig(**{**bridge.qformer, "vocab_size": rows, "pad_token_id": None}),
        projection_size=bridge.projection_size,
        seed=seed,
    )
    state = alignment.state_dict()
    taken = {key: entry for key, entry in bridge.text.items() if key in state}
    pairs: Any = None
    if bridge.text and not kept:
        numbers = bridge.text_tokenizer.get_vocab()
        shared = [(new, numbers[token]) for token, new in reader.get_vocab().items() if token in numbers]
        pairs = torch.tensor(shared, dtype=torch.long).reshape(-1, 2).T
    with torch.no_grad():
        for key, entry in taken.items():
            if key in BY_TOKEN and pairs is not None:
                state[key][pairs[0]] = entry.read()[pairs[1]].to(state[key].dtype)
            elif entry.shape != tuple(state[key].shape):
                raise entry.refuse(f"of shape {list(entry.shape)}", f"{list(state[key].shape)}")
            else:
                state[key].copy_(entry.read())
    return alignment, None if same_vocabulary(reader, tokenizer) else reader


def _projection(bridge: Bridge, language: LanguageModel, seed: int) -> Weights:
    """The projection to the language model's width: the bridge's where it fits, else a new one."""
    width, old = language.config.hidden_size, bridge.weights.get(f"{PROJECTION}weight")
    if old is not None and old.shape[0] == width:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = nn.Linear(bridge.weights["query_tokens"].shape[-1], width)
        nn.init.normal_(new.weight, std=0.02)
        nn.init.zeros_(new.bias)
    log.logger.info("the projection to width %d is new", width)
    return {
        PROJECTION + key: Entry.of(tensor.detach(), SEEDED, PROJECTION + key)
        for key, tensor in new.named_parameters()
    }


def _instructions(bridge: Bridge, alignment: Alignment) -> Weights:
    """The part of the text side that an instruction-aware Q-Former holds inside."""
    if not bridge.text:
        raise CheckpointError(
            f"{bridge.source}: --instruction-aware needs a bridge whose Q-Former reads text: InstructBLIP, "
            "Blip2ForImageTextRetrieval, or a checkpoint of ours"
        )
    return {
        key: Entry.of(tensor, bridge.source, key)
        for key, tensor in alignment.state_dict().items()
        if key.startswith(("embeddings.", "feed_forwards."))
    }


def joint_config(
    bridge: Bridge, language: LanguageModel, alignment: Alignment, *, instruction_aware: bool
) -> Any:
    """The configuration of the new checkpoint; it opens in the language model's dtype."""
    qformer = {**bridge.qformer, "vocab_size": _vocabulary(alignment), "pad_token_id": None}
    if instruction_aware:
        qformer.pop("use_qformer_text_input", None)
    kind = InstructBlipConfig if instruction_aware else Blip2Config
    first = next(iter(language.weights.values()))
    return kind(
        vision_config=bridge.vision,
        qformer_config=qformer,
        text_config=language.config.to_dict(),
        num_query_tokens=bridge.num_query_tokens,
        image_token_index=language.image_id,
        dtype=first.dtype,
        architectures=[_network(instruction_aware).stock_name],
        **({} if instruction_aware else {"image_text_hidden_size": bridge.projection_size}),
    )


def _network(instruction_aware: bool) -> type[VisualModel]:
    return ZiyaInstructModel if instruction_aware else ZiyaVisualModel


def _check(config: Any, weights: Weights, language: LanguageModel) -> None:
    """Compare names and shapes with the network of the configuration, built without memory."""
    with torch.device("meta"):
        network = _network(config.model_type == "instructblip")._from_config(config)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    expected = {key: shape for key, shape in expected.items() if key not in network.all_tied_weights_keys}
    if not language.as_named:
        weights = {key: entry for key, entry in weights.items() if not key.startswith(LANGUAGE_MODEL)}
        expected = {key: shape for key, shape in expected.items() if not key.startswith(LANGUAGE_MODEL)}
    check(weights, expected, where=f"the parts of the new checkpoint ({language.folder} inside)")


def _write_generation_config(folder: Path, language: LanguageModel, end: int) -> None:
    """The language model's own, its settings as they are; it stops also where an answer of ours ends."""
    own = language.folder / "generation_config.json"
    if not own.is_file():
        GenerationConfig.from_model_config(language.config).save_pretrained(folder)
        own = folder / own.name
    settings = read_json(own)
    ends = ends_at(settings.get("eos_token_id"), end)
    write_json(folder / own.name, {**settings, "eos_token_id": ends})


def _vocabulary(alignment: Alignment) -> int:
    return int(alignment.embeddings.word_embeddings.weight.shape[0])
