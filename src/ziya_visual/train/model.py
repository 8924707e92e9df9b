"""The network that a run trains: opened from a checkpoint or composed of parts, and how its LLM blocks run.

Both also build the network on the meta device, where it takes no memory at any size. The language model's
blocks are frozen and large. Under FSDP2 every rank stores a part of each block and gathers a block while it
computes it, at the same time as all other ranks. What learns is small beside them and whole on every rank.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Blip2Config,
    Blip2VisionConfig,
    Blip2VisionModel,
)

from ziya_visual.core.errors import CheckpointError, ConfigError, one_line
from ziya_visual.model.build.compose import compose, new_alignment
from ziya_visual.model.build.weights import open_weights
from ziya_visual.model.checkpoint import ALIGNMENT, LANGUAGE_MODEL, load_checkpoint
from ziya_visual.model.lora import ADAPTER_FILE, adapter_base
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.packed.forward import causal_lm
from ziya_visual.model.processor import (
    ZiyaProcessor,
    add_chat_template,
    add_image_token,
    open_qformer_tokenizer,
)
from ziya_visual.model.quantize import qlora_config


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """What a run trains, and the processor of its inputs."""

    model: ZiyaVisualModel
    alignment: Alignment
    processor: ZiyaProcessor

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of model and alignment."""
        return [*self.model.named_parameters(), *self.alignment.named_parameters()]


def open_checkpoint(
    folder: Path,
    *,
    precision: str,
    seed: int,
    quantize: Literal["nf4"] | None = None,
    needs_alignment: bool = False,
) -> BuiltModel:
    """Open a checkpoint to train on; a stock one gets a new alignment, drawn with ``seed``.

    Raises:
        ConfigError: the Q-Former reads the question; or an adapter ``needs_alignment`` that is not there.
        CheckpointError: the checkpoint cannot be opened.
    """
    quantization = None if quantize is None else qlora_config(quantize)
    model, alignment, processor = load_checkpoint(folder, attention=PLAIN, quantization=quantization)
    if not isinstance(model, ZiyaVisualModel):
        raise ConfigError(
            f"model.checkpoint {folder}: its Q-Former reads the question, which is supported for use only; "
            "train what `init` makes of it without --instruction-aware"
        )
    llm_dtype = torch.bfloat16 if keeps_bfloat16(folder, precision) else torch.float32
    for name, module in [*model.named_children(), ("alignment", alignment)]:
        quantized = name == "language_model" and hasattr(model, "quantization_method")
        if module is not None and not quantized:  # what may learn is in float32
            module.to(llm_dtype if name == "language_model" else torch.float32)
    model.query_tokens.data = model.query_tokens.data.float()
    config = model.config.qformer_config
    if alignment is None:
        if needs_alignment:
            raise ConfigError(
                f"save: adapter needs a base with an alignment, but {folder} has none; use save: checkpoint"
            )
        config.vocab_size, config.pad_token_id = len(processor.tokenizer), None
        size = model.config.image_text_hidden_size
        alignment = new_alignment(config, projection_size=size, seed=seed)
    for module in model.qformer.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # our plain attention does not support BLIP-2's 0.1
    return BuiltModel(model, alignment, processor)


def checkpoint_on_meta(folder: Path, *, precision: str) -> BuiltModel:
    """Build what :func:`open_checkpoint` opens from its configuration, on the meta device."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json there; give the folder of a checkpoint")
    try:
        config = Blip2Config.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({one_line(error, 160)})") from error
    qformer = config.qformer_config
    qformer.attention_probs_dropout_prob = 0.0
    if not (folder / ALIGNMENT).is_file():
        qformer.vocab_size, qformer.pad_token_id = len(tokenizer), None
    with torch.device("meta"):
        model = ZiyaVisualModel._from_config(config)
        alignment = Alignment(qformer, projection_size=config.image_text_hidden_size)
    model.float()
    if keeps_bfloat16(folder, precision):
        model.language_model.to(torch.bfloat16)
    alignment.qformer_tokenizer = open_qformer_tokenizer(folder)
    add_image_token(tokenizer)
    add_chat_template(tokenizer)
    size, queries = config.vision_config.image_size, config.num_query_tokens
    return BuiltModel(model, alignment, ZiyaProcessor(tokenizer, image_size=size, num_query_tokens=queries))


def keeps_bfloat16(folder: Path, precision: str) -> bool:
    """Return whether a checkpoint's language model stays in bfloat16: it is stored and computed in it."""
    if precision != "bf16":
        return False
    folder = adapter_base(folder) if (folder / ADAPTER_FILE).is_file() else folder
    dtypes = {entry.dtype for key, entry in open_weights(folder).items() if key.startswith(LANGUAGE_MODEL)}
    return dtypes == {torch.bfloat16}


def compose_model(
    vision: Path, language_model: Path, *, qformer: dict[str, Any], seed: int, meta: bool = False
) -> BuiltModel:
    """Compose a model of a ViT and a language model, by their folders; the Q-Former between them is new.

    ``qformer`` is its configuration, with ``num_query_tokens`` and ``projection_size``. With ``meta`` the
    model is built on the meta device, from the configurations alone.
    """
    device = torch.device("meta") if meta else contextlib.nullcontext()
    try:
        tokenizer = AutoTokenizer.from_pretrained(language_model)
        if meta:
            with device:
                vit = Blip2VisionModel(Blip2VisionConfig.from_pretrained(vision))
                llm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(language_model))
        else:
            vit = Blip2VisionModel.from_pretrained(vision, dtype=torch.float32)
            llm = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"model: cannot be read ({one_line(error, 160)})") from error
    settings = {**qformer, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    queries, projection_size = settings.pop("num_query_tokens"), settings.pop("projection_size")
    with device:
        model, alignment = compose(
            vision=vit, language_model=llm, tokenizer=tokenizer, qformer=settings, num_query_tokens=queries,
            projection_size=projection_size, seed=seed,
        )  # fmt: skip
    model.set_attn_implementation(PLAIN)
    processor = ZiyaProcessor(tokenizer, image_size=vit.config.image_size, num_query_tokens=queries)
    return BuiltModel(model, alignment, processor)


def llm_blocks(language_model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks: the longest list of modules in the network."""
    lists = [list(module) for module in language_model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def prepare_llm_blocks(model: ZiyaVisualModel, *, recompute: bool, compiled: bool) -> None:
    """Set how the language model's blocks run; call it again after switching modules to evaluation mode."""
    inner = causal_lm(model.language_model)
    if recompute:
        if not inner.supports_gradient_checkpointing:
            raise ConfigError(f"recompute: {type(inner).__name__} does not support it; leave it out")
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    for block in llm_blocks(inner):
        if recompute:
            block.training = True  # transformers recomputes only then; the modules inside stay as they are
        if compiled and block._compiled_call_impl is None:
            block.compile(dynamic=True)


def shard_llm_blocks(model: ZiyaVisualModel) -> None:
    """Shard the language model's blocks over the ranks."""
    for block in llm_blocks(model.language_model):
        fully_shard(block, reshard_after_forward=True)
