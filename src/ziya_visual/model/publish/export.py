"""``export``: a checkpoint as a stock folder, proven by its logits, with a card of its measured results.

Adapters are merged, ``config.json`` names the stock architecture, and ``parity.json`` reports how far the
stock class is from ours. A folder above the tolerance is not written.
"""

from __future__ import annotations

import copy
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoProcessor,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    GenerationConfig,
)

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError, ConfigError, DataError, EndpointError, one_line
from ziya_visual.core.files import atomic_dir, read_json, write_json, write_text
from ziya_visual.data.packing import edges
from ziya_visual.model.build.language_model import end_token_ids
from ziya_visual.model.checkpoint import ALIGNMENT, load_checkpoint, save_checkpoint
from ziya_visual.model.lora import merge_lora
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.model.publish import parity
from ziya_visual.model.quantize import Method, quantize_folder, require_torchao

PARITY = "parity.json"
TOKEN = "HF_TOKEN"
RESULTS = "results.json"
PACKAGES = ("ziya-visual", "torch", "transformers")
RESULT_FIELDS = {"model", "split", "lang", "task", "name", "value", "low", "high", "n"}
OURS_ALONE = ("lm_bias", "logit_scale")  # grounded generation and temperature: stock has neither


def export(
    checkpoint: Path,
    *,
    to: Path,
    quantize: Method | None = None,
    retrieval: bool = False,
    push: str | None = None,
) -> Path:
    """Write a stock folder with model card and parity report; upload it if ``push`` names a repository.

    Args:
        checkpoint: a checkpoint folder, or an adapter folder whose base is where it says.
        to: the new folder; an earlier export there is replaced.
        quantize: quantize the language model's linear layers by torchao. ``parity.json`` reports how far the
            logits move and sets no limit: whether that is acceptable is the user's decision.
        retrieval: export for ``Blip2ForImageTextRetrieval`` instead of ``Blip2ForConditionalGeneration``.
        push: ``owner/name`` on the hub; the token is read from the environment.
    """
    _check(to, quantize, retrieval)
    token = None if push is None else _hub_token()
    command = _command(checkpoint, to, quantize, retrieval)
    with atomic_dir(to) as temporary:
        if retrieval:
            report = _write_retrieval(checkpoint, temporary)
        else:
            report = _write_generation(checkpoint, temporary, quantize)
        _clean_config(temporary, Blip2ForImageTextRetrieval if retrieval else Blip2ForConditionalGeneration)
        write_json(temporary / PARITY, report)
        _write_card(temporary, name=to.resolve().name, checkpoint=checkpoint, report=report, command=command)
    log.logger.info("exported: %s", to)
    if push is not None and token is not None:
        log.logger.info("uploaded: %s", _push(to, push, token))
    return to


def _check(to: Path, quantize: Method | None, retrieval: bool) -> None:
    if quantize is not None:
        require_torchao()
        if retrieval:
            raise ConfigError("--quantize is for the language model, which --retrieval leaves out; drop one")
    if to.exists() and not (to / PARITY).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"--to {to}: exists and is no earlier export; name a new folder")


def _command(checkpoint: Path, to: Path, quantize: Method | None, retrieval: bool) -> str:
    words = ["ziya-visual", "export", str(checkpoint), "--to", str(to)]
    words += ["--quantize", quantize] if quantize else []
    return shlex.join([*words, *(["--retrieval"] if retrieval else [])])


def _write_generation(checkpoint: Path, folder: Path, quantize: Method | None) -> dict[str, Any]:
    """Write the stock generating network and compare it with ours, with one copy in memory at a time."""
    prompts, ours, pad_id = _write_merged(checkpoint, folder)
    stock = _open_strictly(folder, checkpoint)
    single = parity.stock_logits(stock, prompts, pad_id=pad_id)
    batched = parity.stock_logits(stock, prompts, pad_id=pad_id, batch_size=parity.BATCH_SIZE)
    del stock
    differences = {
        "stock_against_ours": parity.difference(single, ours),
        "batch_of_8_against_1": parity.difference(batched, single),
    }
    parity.refuse_above(checkpoint, differences)
    report: dict[str, Any] = {"tolerance": parity.TOLERANCE, "prompts": len(prompts), **differences}
    if quantize is not None:
        quantize_folder(folder, quantize)
        quantized = parity.stock_logits(_open_strictly(folder, checkpoint), prompts, pad_id=pad_id)
        report["quantized"] = {
            "method": quantize,
            **parity.difference(quantized, single),
            "same_likeliest_token_percent": parity.same_choice(quantized, single),
        }
    _write_index(folder)
    return report


def _write_merged(checkpoint: Path, folder: Path) -> tuple[list[parity.Prompt], list[Any], int]:
    """Write the merged checkpoint; return the prompts, our logits from before merging, and the pad id."""
    model, alignment, processor = load_checkpoint(checkpoint, attention=PLAIN, dtype=torch.float32)
    if not isinstance(model, ZiyaVisualModel):
        raise CheckpointError(f"{checkpoint}: is stock InstructBLIP already; there is nothing to export")
    prompts = parity.prompts(processor)
    ours = parity.our_logits(model, prompts)
    merge_lora(model)
    model.generation_config = _generation_config(model.generation_config, processor)
    save_checkpoint(folder, model=model, alignment=alignment, processor=processor)
    return prompts, ours, processor.chat.pad_id


def _write_index(folder: Path) -> None:
    """Write the index that transformers writes for shards, also for a single file.

    Without an index vLLM opens every safetensors file of a folder, ``alignment.safetensors`` too.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            names = dict.fromkeys(sorted(file.keys()), "model.safetensors")
        size = (folder / "model.safetensors").stat().st_size
        write_json(index, {"metadata": {"total_size": size}, "weight_map": names})


def _generation_config(old: Any, processor: ZiyaProcessor) -> GenerationConfig:
    """Return the checkpoint's own settings with our end, padding and beginning tokens."""
    values = {key: value for key, value in old.to_diff_dict().items() if not key.startswith("_")}
    values["eos_token_id"] = end_token_ids(old.eos_token_id, processor.chat.eos_id)
    values["pad_token_id"] = processor.chat.pad_id
    values["bos_token_id"] = processor.tokenizer.bos_token_id
    return GenerationConfig(**values)


def _write_retrieval(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Write the stock retrieval network and compare its scores with ours."""
    model, alignment, processor = load_checkpoint(checkpoint, attention=PLAIN, dtype=torch.float32)
    if alignment is None or not isinstance(model, ZiyaVisualModel):
        raise CheckpointError(
            f"{checkpoint}: {ALIGNMENT} not found; --retrieval needs the Q-Former's text side"
        )
    merge_lora(model)
    side = (processor.image_size, processor.image_size)  # resized here, since stock resizes differently
    images = [image.resize(side) for image in parity.images(len(parity.TEXTS))]
    ours = parity.our_scores(model, alignment, processor, images)
    _save_retrieval(folder, model=model, alignment=alignment, processor=processor)
    temperature = alignment.logit_scale.exp().item()
    del model, alignment
    stock = _open_strictly(folder, checkpoint, Blip2ForImageTextRetrieval)
    theirs = parity.stock_scores(stock, AutoProcessor.from_pretrained(folder), images)
    differences = {
        "contrastive_scores": parity.difference([theirs[0]], [ours[0]]),
        "matching_logits": parity.difference([theirs[1]], [ours[1]]),
    }
    parity.refuse_above(checkpoint, differences)
    return {
        "tolerance": parity.TOLERANCE,
        "pairs": len(images),
        **differences,
        "contrastive_logit_scale": temperature,
    }


def _save_retrieval(
    folder: Path, *, model: ZiyaVisualModel, alignment: Alignment, processor: ZiyaProcessor
) -> None:
    """Save network, tokenizer and image settings for ``Blip2ForImageTextRetrieval``.

    The stock processor puts ``num_query_tokens`` placeholders before a text, and the stock network drops
    them.
    """
    config = copy.deepcopy(model.config)
    config.qformer_config.use_qformer_text_input = True
    with torch.device("meta"):
        stock = Blip2ForImageTextRetrieval._from_config(config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in stock.state_dict()}
    for name, tensor in alignment.state_dict().items():
        if name not in OURS_ALONE:
            state[name.replace("feed_forwards.", "qformer.encoder.layer.")] = tensor
    stock.load_state_dict(state, strict=True, assign=True)
    stock.save_pretrained(folder)
    _stock_processor(model, processor, alignment.qformer_tokenizer).save_pretrained(folder)


def _stock_processor(
    model: ZiyaVisualModel, processor: ZiyaProcessor, qformer_tokenizer: Any | None
) -> Blip2Processor:
    """Build a stock processor that frames texts like ``text_batch``."""
    tokenizer = copy.deepcopy(qformer_tokenizer or processor.tokenizer)
    edge_ids = edges(processor.chat, qformer_tokenizer)
    head, tail = (tokenizer.convert_ids_to_tokens(ids) for ids in edge_ids)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*head, "$A", *tail],
        special_tokens=list(zip([*head, *tail], itertools.chain(*edge_ids), strict=True)),
    )
    tokenizer.padding_side = "right"  # the first position is the text's vector
    tokenizer.model_max_length = model.config.qformer_config.max_position_embeddings
    return Blip2Processor(processor.image_processor, tokenizer, num_query_tokens=processor.num_query_tokens)


def _open_strictly(folder: Path, checkpoint: Path, stock: Any = Blip2ForConditionalGeneration) -> Any:
    """Open the folder with a stock class; no key may be missing or unexpected."""
    model, info = stock.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise CheckpointError(
                f"{checkpoint}: {stock.__name__} finds {len(info[kind])} {kind.replace('_', ' ')} in the "
                f"exported folder, such as {sorted(info[kind])[0]}"
            )
    return model.eval()


def _clean_config(folder: Path, stock: Any) -> None:
    """Name the stock class in ``config.json`` and remove local paths."""
    config = read_json(folder / "config.json")
    config["architectures"] = [stock.__name__]
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part.pop("_name_or_path", None)
    write_json(folder / "config.json", config)


def _hub_token() -> str:
    """Return the token from the environment, the only place where it is looked for; it is never written."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(f"--push needs a token with write access in the environment variable {TOKEN}")
    return token


def _push(folder: Path, repo: str, token: str) -> str:
    """Upload a folder as one commit, to a new private repository if there is none; return its address."""
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Upload {folder.name}")
    except Exception as error:  # the hub client does not say which HTTP library's errors it raises
        raise EndpointError(
            f"--push {repo}: {one_line(error)}; {folder} is complete, push it again"
        ) from error
    return str(commit.commit_url)


def _write_card(
    folder: Path, *, name: str, checkpoint: Path, report: Mapping[str, Any], command: str
) -> None:
    """Write ``README.md``: what the folder is, how it was checked, and the numbers of ``results.json`` alone.

    ``results.json`` is read from the exported checkpoint or else from its parent. ``name`` is the title,
    ``report`` the content of ``parity.json``, ``command`` the command that exported the folder.
    """
    config = read_json(folder / "config.json")
    results = _results(checkpoint)
    retrieval = config["architectures"] == ["Blip2ForImageTextRetrieval"]
    model = checkpoint.name
    rows = results["metrics"] if results else []
    if not any(row["model"] == model for row in rows):
        model = "chat"
    rows = [row for row in rows if row["model"] == model and (row["task"] == "retrieval" or not retrieval)]
    columns = list(dict.fromkeys((row["split"], row["lang"]) for row in rows))  # in the order measured
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("card.md.jinja").render(
        name=name,
        config=config,
        retrieval=retrieval,
        parity=report,
        results=results,
        table=_table(rows, columns),
        columns=columns,
        languages=sorted({row["lang"] for row in rows}),
        command=command,
        versions={package: version(package) for package in PACKAGES},
    )
    write_text(folder / "README.md", text)


def _results(checkpoint: Path) -> dict[str, Any] | None:
    for path in (checkpoint / RESULTS, checkpoint.resolve().parent / RESULTS):
        if path.is_file():
            content = read_json(path)
            rows = content.get("metrics") if isinstance(content, dict) else None
            if not isinstance(rows, list) or not all(
                isinstance(r, dict) and r.keys() >= RESULT_FIELDS for r in rows
            ):
                raise DataError(f"{path}: not a results.json; expected an object with a list 'metrics'")
            return dict(content)
    return None


def _table(rows: Sequence[Mapping[str, Any]], columns: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return cells by task and metric: value, 95 % interval and number of examples for each column."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        line = cells.setdefault(f"{row['task']} {row['name']}", ["" for _ in columns])
        cell = f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}, n = {row['n']})"
        line[columns.index((row["split"], row["lang"]))] = cell
    return cells
