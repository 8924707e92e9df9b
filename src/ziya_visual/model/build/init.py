"""``init``: a new checkpoint from a bridge's folder and a language model's, written tensor by tensor.

BLIP-2 and InstructBLIP share one ViT and, except for names, one Q-Former. The Q-Former's text side (token
embeddings and text feed-forwards) is inside the Q-Former in InstructBLIP, beside it in stock retrieval, and
in our alignment file. The published Ziya layout is BLIP-2's without a language model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
from ziya_visual.model.build.compose import new_alignment
from ziya_visual.model.build.language_model import LanguageModel, end_token_ids, read_language_model
from ziya_visual.model.build.weights import (
    SHARD_BYTES,
    Entry,
    Weights,
    check_weights,
    open_file,
    open_weights,
    require_new_folder,
    write_weights,
)
from ziya_visual.model.checkpoint import (
    ALIGNMENT,
    LANGUAGE_MODEL,
    local_folder,
    read_config,
    save_alignment,
    save_tokenizers,
)
from ziya_visual.model.network import Alignment, VisualModel, ZiyaInstructModel, ZiyaVisualModel
from ziya_visual.model.processor import (
    CHAT_KEYS,
    ZiyaProcessor,
    add_chat_template,
    open_qformer_tokenizer,
    open_tokenizer,
)

PROJECTION = "language_projection."
BRIDGE_PARTS = ("vision_model.", "qformer.", "query_tokens", PROJECTION)
# In stock Blip2ForImageTextRetrieval; the alignment uses the same names.
RETRIEVAL_PARTS = ("embeddings.", "vision_projection.", "text_projection.", "itm_head.")

# InstructBLIP's names in the Q-Former -> ours; names with the prefix ``text:`` belong to the alignment.
TEXT = "text:"
_FROM_INSTRUCT = (
    (re.compile(r"^qformer\.embeddings\.layernorm\."), "qformer.layernorm."),
    (re.compile(r"^qformer\.embeddings\."), "text:embeddings."),
    (re.compile(r"^qformer\.encoder\.layer\.(\d+)\.(intermediate|output)\."), r"text:feed_forwards.\1.\2."),
)
_TO_INSTRUCT = (
    (re.compile(r"^qformer\.layernorm\."), "qformer.embeddings.layernorm."),
    (re.compile(r"^embeddings\."), "qformer.embeddings."),
    (re.compile(r"^feed_forwards\.(\d+)\."), r"qformer.encoder.layer.\1."),
)
BY_TOKEN = ("embeddings.word_embeddings.weight", "lm_bias")  # the alignment's tensors with a row per token
SEEDED = Path("(new from the seed)")


@dataclass(frozen=True, slots=True)
class Bridge:
    """The network between images and a language model, in whatever layout it was saved."""

    vision: dict[str, Any]  # keywords of Blip2VisionConfig
    qformer: dict[str, Any]  # keywords of Blip2QFormerConfig
    num_query_tokens: int
    projection_size: int  # width of the contrastive space
    weights: Weights  # ViT, Q-Former, queries and the projection, if there is one, under BLIP-2's names
    source: Path  # for messages
    text: Weights = field(default_factory=dict)  # the Q-Former's text side under the alignment's names
    text_tokenizer: Any = None
    chat_names: dict[str, str] | None = None  # the speakers' names in the published Ziya layout


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
    """Compose a checkpoint folder and return a summary of the parts and their origins, to show.

    Args:
        llm: folder or hub id of any ``AutoModelForCausalLM``.
        out: the new folder.
        bridge: folder or hub id of a BLIP-2, InstructBLIP or Ziya checkpoint, or of one of ours.
        vision_config: without a ``bridge``, a JSON file with keywords of ``Blip2VisionConfig``.
        qformer_config: without a ``bridge``, a JSON file with keywords of ``Blip2QFormerConfig``, and
            ``num_query_tokens`` and ``image_text_hidden_size`` if they differ from BLIP-2's.
        qformer_tokenizer: folder or hub id of a tokenizer for the Q-Former's text side.
        instruction_aware: let the queries see the question, as InstructBLIP does.
        seed: seed of new weights.
        shard_bytes: size limit of a weights file; a larger tensor gets a file of its own.
    """
    require_new_folder(out)
    source = _source(bridge, vision_config, qformer_config, seed)
    language = read_language_model(local_folder(llm))
    add_chat_template(language.tokenizer, source.chat_names)
    tokenizer = open_tokenizer(local_folder(qformer_tokenizer)) if qformer_tokenizer is not None else None
    alignment, tokenizer = _text_side(source, language.tokenizer, tokenizer, seed=seed)
    weights = {**source.weights, **_projection(source, language, seed)}
    weights |= {LANGUAGE_MODEL + key: entry for key, entry in language.weights.items()}
    if instruction_aware:
        weights |= _instruction_weights(source, alignment)
        weights = {_rename(key, _TO_INSTRUCT): entry for key, entry in weights.items()}
        tokenizer = tokenizer or language.tokenizer
    config = _joint_config(source, language, alignment, instruction_aware=instruction_aware)
    _check(config, weights, language)
    processor = ZiyaProcessor(  # built before anything is written, since it may refuse the chat template
        language.tokenizer,
        image_size=config.vision_config.image_size,
        num_query_tokens=source.num_query_tokens,
    )
    with atomic_dir(out) as temporary:
        write_weights(temporary, weights, shard_bytes=shard_bytes)
        config.save_pretrained(temporary)
        _write_generation_config(temporary, language, processor.chat.eos_id)
        save_tokenizers(temporary, processor, tokenizer, instruction_aware=instruction_aware)
        if not instruction_aware:
            save_alignment(temporary, alignment)
    return {**_summary(source, language, alignment, weights), "written": str(out)}


def _source(
    bridge: str | Path | None, vision_config: Path | None, qformer_config: Path | None, seed: int
) -> Bridge:
    if bridge is not None and vision_config is None and qformer_config is None:
        return _read_bridge(local_folder(bridge))
    if bridge is None and vision_config is not None and qformer_config is not None:
        return _new_bridge(vision_config, qformer_config, seed=seed)
    raise ConfigError("give --bridge, or both --vision-config and --qformer-config")


def _summary(
    bridge: Bridge, language: LanguageModel, alignment: Alignment, weights: Weights
) -> dict[str, Any]:
    projection = weights[f"{PROJECTION}weight"]
    return {
        "parameters": sum(torch.Size(entry.shape).numel() for entry in weights.values()),
        "vision, Q-Former": str(bridge.source),
        "projection": f"{list(projection.shape)} {'new' if projection.file == SEEDED else 'taken over'}",
        "Q-Former's text": f"{'taken over' if bridge.text else 'new'}, {len(alignment.lm_bias)} tokens",
        "language model": f"{language.folder}, {language.config.vocab_size} tokens",
    }


def _new_bridge(vision_config: Path, qformer_config: Path, *, seed: int) -> Bridge:
    """Initialize a ViT and a Q-Former from ``seed``."""
    vision, qformer = _read_settings(vision_config), _read_settings(qformer_config)
    defaults = Blip2Config()
    queries = qformer.pop("num_query_tokens", defaults.num_query_tokens)
    projection_size = qformer.pop("image_text_hidden_size", defaults.image_text_hidden_size)
    # The published ViT's own value, 1e-10, suits only loading: new weights would be all but zero.
    vision.setdefault("initializer_range", 0.02)
    config = Blip2Config(
        vision_config=_build_config(Blip2VisionConfig, vision, vision_config).to_dict(),
        qformer_config=_build_config(Blip2QFormerConfig, qformer, qformer_config).to_dict(),
        text_config=LlamaConfig(  # dropped below
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


def _read_settings(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object of settings, found {type(value).__name__}")
    return {name: setting for name, setting in value.items() if name != "model_type"}


def _build_config(kind: Any, settings: dict[str, Any], path: Path) -> Any:
    known = set(kind().to_dict())
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
    try:
        return kind(**settings)
    except Exception as error:  # the library has its own kinds of validation errors
        raise ConfigError(f"{path}: {one_line(error)}") from error


def _text_side(
    bridge: Bridge, tokenizer: Any, qformer_tokenizer: Any | None, *, seed: int
) -> tuple[Alignment, Any | None]:
    """Build the Q-Former's text side from the bridge's, or from ``seed`` if it has none.

    Its tokenizer is ``qformer_tokenizer``, else the bridge's, else ``tokenizer``, the language model's, for
    which None is returned. Tokens that the bridge's tokenizer knows keep their rows under another tokenizer,
    matched by spelling.
    """
    text_tokenizer = qformer_tokenizer or bridge.text_tokenizer or tokenizer
    vocabulary = text_tokenizer.get_vocab()
    bridge_vocabulary = bridge.text_tokenizer.get_vocab() if bridge.text_tokenizer is not None else None
    same = vocabulary == bridge_vocabulary
    rows = bridge.text[BY_TOKEN[0]].shape[0] if same else len(text_tokenizer)
    alignment = new_alignment(
        Blip2QFormerConfig(**{**bridge.qformer, "vocab_size": rows, "pad_token_id": None}),
        projection_size=bridge.projection_size,
        seed=seed,
    )
    state = alignment.state_dict()
    shared: Any = None  # int64[2, n]: new and old rows of the tokens in both vocabularies
    if bridge_vocabulary is not None and not same:
        ids = [(new, bridge_vocabulary[t]) for t, new in vocabulary.items() if t in bridge_vocabulary]
        shared = torch.tensor(ids, dtype=torch.long).reshape(-1, 2).T
    with torch.no_grad():
        for key, entry in bridge.text.items():
            if key not in state:
                continue
            if key in BY_TOKEN and shared is not None:
                state[key][shared[0]] = entry.read()[shared[1]].to(state[key].dtype)
            elif entry.shape != tuple(state[key].shape):
                raise entry.mismatch(f"of shape {list(entry.shape)}", f"{list(state[key].shape)}")
            else:
                state[key].copy_(entry.read())
    return alignment, None if vocabulary == tokenizer.get_vocab() else text_tokenizer


def _projection(bridge: Bridge, language: LanguageModel, seed: int) -> Weights:
    """Return a new projection to the language model's width, nothing if the bridge's fits."""
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


def _instruction_weights(bridge: Bridge, alignment: Alignment) -> Weights:
    """Return the part of the text side that an instruction-aware Q-Former has inside."""
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


def _joint_config(
    bridge: Bridge, language: LanguageModel, alignment: Alignment, *, instruction_aware: bool
) -> Any:
    """Return the configuration of the new checkpoint, which opens in the language model's dtype."""
    qformer = {**bridge.qformer, "vocab_size": len(alignment.lm_bias), "pad_token_id": None}
    if instruction_aware:
        qformer.pop("use_qformer_text_input", None)
    kind = InstructBlipConfig if instruction_aware else Blip2Config
    return kind(
        vision_config=bridge.vision,
        qformer_config=qformer,
        text_config=language.config.to_dict(),
        num_query_tokens=bridge.num_query_tokens,
        image_token_index=language.image_id,
        dtype=next(iter(language.weights.values())).dtype,
        architectures=[_network(instruction_aware).stock_name],
        **({} if instruction_aware else {"image_text_hidden_size": bridge.projection_size}),
    )


def _network(instruction_aware: bool) -> type[VisualModel]:
    return ZiyaInstructModel if instruction_aware else ZiyaVisualModel


def _check(config: Any, weights: Weights, language: LanguageModel) -> None:
    """Compare names and shapes with those of the configured network, built on the meta device."""
    with torch.device("meta"):
        network = _network(config.model_type == "instructblip")._from_config(config)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    expected = {key: shape for key, shape in expected.items() if key not in network.all_tied_weights_keys}
    if not language.as_named:
        weights = {key: entry for key, entry in weights.items() if not key.startswith(LANGUAGE_MODEL)}
        expected = {key: shape for key, shape in expected.items() if not key.startswith(LANGUAGE_MODEL)}
    check_weights(weights, expected, where=f"the parts of the new checkpoint ({language.folder} inside)")


def _write_generation_config(folder: Path, language: LanguageModel, end: int) -> None:
    """Write the language model's own settings with our answers' end token added."""
    source = language.folder / "generation_config.json"
    if not source.is_file():
        GenerationConfig.from_model_config(language.config).save_pretrained(folder)
        source = folder / source.name
    settings = read_json(source)
    settings["eos_token_id"] = end_token_ids(settings.get("eos_token_id"), end)
    write_json(folder / source.name, settings)


def _read_bridge(folder: Path) -> Bridge:
    """Read the ViT and the Q-Former of a folder in any layout, without its language model."""
    config = read_config(folder)
    weights, text = _split_parts(open_weights(folder))
    if (folder / ALIGNMENT).is_file():
        text = open_file(folder / ALIGNMENT)
    tokenizer = None
    if text:
        tokenizer = open_qformer_tokenizer(folder) or open_tokenizer(folder)
        words = text["embeddings.word_embeddings.weight"]
        if len(tokenizer) > words.shape[0]:
            raise words.mismatch(f"of {words.shape[0]} rows", f"{len(tokenizer)}, one for each token")
    names = {key: getattr(config, key, None) for key in CHAT_KEYS}
    return Bridge(
        vision=_keywords(config.vision_config),
        qformer={**_keywords(config.qformer_config), "use_qformer_text_input": False},
        num_query_tokens=config.num_query_tokens,
        projection_size=getattr(config, "image_text_hidden_size", Blip2Config().image_text_hidden_size),
        weights=weights,
        source=folder,
        text=text,
        text_tokenizer=tokenizer,
        chat_names=None if None in names.values() else {key: str(name) for key, name in names.items()},
    )


def _keywords(config: Any) -> dict[str, Any]:
    """Return a part's settings without its dtype and class name, which differ between the layouts."""
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "dtype")}


def _split_parts(entries: Weights) -> tuple[Weights, Weights]:
    """Return ViT and Q-Former under BLIP-2's names, and the text side under the alignment's names."""
    weights: Weights = {}
    text: Weights = {}
    for key, entry in entries.items():
        name = _rename(key, _FROM_INSTRUCT)
        if name.startswith(TEXT):
            text[name.removeprefix(TEXT)] = entry
        elif name.startswith(BRIDGE_PARTS):
            weights[name] = entry
        elif name.startswith(RETRIEVAL_PARTS):
            text[name] = entry
        elif not name.startswith(LANGUAGE_MODEL):
            expected = ", ".join((*BRIDGE_PARTS, LANGUAGE_MODEL))
            raise CheckpointError(f"{entry.file}: {key} belongs to no part; expected names in {expected}")
    return weights, text


def _rename(key: str, table: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, name in table:
        if pattern.search(key):
            return pattern.sub(name, key)
    return key
