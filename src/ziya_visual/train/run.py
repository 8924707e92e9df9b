"""A recipe from its file to its checkpoint: read the data, open or compose the model, train, save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import write_json, write_jsonl
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.recipe import Recipe
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.leaks import refuse_leaks
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.build.compose import compose, new_alignment, set_image_size
from ziya_visual.model.build.layouts import LANGUAGE_MODEL
from ziya_visual.model.build.weights import open_weights
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.model.lora import ADAPTER_FILE, adapter_base, save_adapter
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.model.quantize import qlora_config
from ziya_visual.train.batches import Album, album
from ziya_visual.train.loop import train
from ziya_visual.train.training import Pictured, Training


def run_recipe(recipe: Recipe) -> Path:
    """Train all stages of a recipe and save each in ``recipe.out``; a killed run goes on.

    Returns:
        The folder of the last stage: a checkpoint, or an adapter where the recipe says so.

    Raises:
        ConfigError: the recipe names neither a checkpoint nor the parts of one.
        DataError: nothing of the data can be used, or it shares pictures with what is held back.
        CheckpointError: the model cannot be opened.
    """
    distributed.start()
    if distributed.rank() > 0:
        log.quiet()
    examples = read_data(recipe.data.path, rejects=recipe.out / "rejects.jsonl")
    paths = recipe.validation.path if recipe.validation else ()
    held = {
        str(path): read_data([path], rejects=recipe.out / f"rejects-validation-{number}.jsonl")
        for number, path in enumerate(paths)
    }
    if distributed.rank() == 0:
        refuse_leaks(examples, held, allowed=recipe.data.shared, cache=recipe.out / "fingerprints.npz")
    training = prepare(recipe, examples, [one for found in held.values() for one in found])

    def keep(stage: str) -> None:
        folder = recipe.out / stage
        _save(training, recipe, stage, folder)
        log.logger.info("stage %s: %s", stage, folder)

    curve = train(training, recipe, after_stage=keep)
    if distributed.rank() == 0:
        write_json(recipe.out / "curve.json", curve)
    return recipe.out / recipe.stages[-1].name


def _save(training: Training, recipe: Recipe, stage: str, folder: Path) -> None:
    both: dict[str, Any] = {"model": training.model, "alignment": training.alignment}
    if recipe.save == "checkpoint":
        save_checkpoint(folder, **both, processor=training.processor)
        return
    assert recipe.model.checkpoint is not None, "the recipe was checked"
    done = recipe.stages[: 1 + [one.name for one in recipe.stages].index(stage)]
    trained = list(dict.fromkeys(rule for one in done for rule in one.trains))
    save_adapter(folder, **both, trained=trained, base=recipe.model.checkpoint)


def read_data(paths: Sequence[Path], *, rejects: Path) -> list[Example]:
    """All records of some datasets; what cannot be used is written to ``rejects`` and counted aloud.

    Raises:
        DataError: there is no dataset at a path.
    """
    examples: list[Example] = []
    rows = []
    for path in paths:
        for found in iter_records(path):
            if isinstance(found, Example):
                examples.append(found)
            else:
                rows.append({"where": f"{path}/{found.where}", "reason": found.reason})
    if rows:
        if distributed.rank() == 0:
            write_jsonl(rejects, rows)
        log.logger.warning(
            "%d rows could not be used, the first %s: %s; all in %s", len(rows), *rows[0].values(), rejects
        )
    log.logger.info("%d records", len(examples))
    return examples


def prepare(recipe: Recipe, examples: list[Example], held: Sequence[Example] = ()) -> Training:
    """The model of the recipe, and the pictures of the records, and of those held back, at its size."""
    spec = recipe.model
    if spec.checkpoint is not None:
        model, alignment, processor = _opened(spec.checkpoint, recipe)
    elif spec.vision is not None and spec.language_model is not None:
        model, alignment, processor = _composed(recipe, spec.vision, spec.language_model)
    else:
        raise ConfigError("model: give a checkpoint, or both vision and language_model")
    if spec.attention != PLAIN:
        model.language_model.set_attn_implementation(spec.attention)
    if spec.image_size is not None:
        set_image_size(model, spec.image_size)
        processor.image_size = spec.image_size
    side = processor.image_size
    back = _pictured(held, side) if held else None
    return Training(model, alignment, processor, _pictured(examples, side), back)


def _pictured(examples: Sequence[Example], side: int) -> Pictured:
    texts = album(examples)
    return Pictured(texts, _pictures(texts, side))


def _opened(checkpoint: Path, recipe: Recipe) -> tuple[ZiyaVisualModel, Alignment, ZiyaProcessor]:
    """A checkpoint to train on; a stock one gets a new alignment."""
    four_bits = None if recipe.model.quantize is None else qlora_config(recipe.model.quantize)
    model, alignment, processor = load_checkpoint(checkpoint, attention=PLAIN, quantization=four_bits)
    if not isinstance(model, ZiyaVisualModel):
        raise ConfigError(
            f"model.checkpoint {checkpoint}: its Q-Former reads the question, which is for use alone; "
            "train what `init` makes of it without --instruction-aware"
        )
    _set_dtypes(model, alignment, half=keeps_bfloat16(recipe))
    qformer = model.config.qformer_config
    if alignment is None:
        if recipe.save == "adapter":
            raise ConfigError(
                f"save: adapter needs a base with an alignment, {checkpoint} has none; use save: checkpoint"
            )
        qformer.vocab_size, qformer.pad_token_id = len(processor.tokenizer), None
        size = model.config.image_text_hidden_size
        alignment = new_alignment(qformer, projection_size=size, seed=recipe.seed)
    for module in model.qformer.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # BLIP-2's 0.1 cannot be had of plain attention
    return model, alignment, processor


def keeps_bfloat16(recipe: Recipe) -> bool:
    """Whether the checkpoint's language model stays in bfloat16: it is stored and computed in it."""
    folder = recipe.model.checkpoint
    if folder is None or recipe.precision != "bf16":
        return False
    folder = adapter_base(folder) if (folder / ADAPTER_FILE).is_file() else folder
    found = {entry.dtype for key, entry in open_weights(folder).items() if key.startswith(LANGUAGE_MODEL)}
    return found == {torch.bfloat16}


def _set_dtypes(model: ZiyaVisualModel, alignment: Alignment | None, *, half: bool) -> None:
    """Float32 for all that may learn; ``half`` keeps the frozen language model in bfloat16.

    One in 4 bits stays as it is.
    """
    for name, module in [*model.named_children(), ("alignment", alignment)]:
        if module is not None and not (name == "language_model" and hasattr(model, "quantization_method")):
            module.to(torch.bfloat16 if half and name == "language_model" else torch.float32)
    model.query_tokens.data = model.query_tokens.data.float()


def _composed(
    recipe: Recipe, vision: Path, language_model: Path
) -> tuple[ZiyaVisualModel, Alignment, ZiyaProcessor]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, Blip2VisionModel

    eyes = Blip2VisionModel.from_pretrained(vision, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    bridge = recipe.model.bridge.model_dump()
    queries, projection_size = bridge.pop("num_query_tokens"), bridge.pop("projection_size")
    model, alignment = compose(
        vision=eyes,
        language_model=AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32),
        tokenizer=tokenizer,
        qformer={**bridge, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        num_query_tokens=queries,
        projection_size=projection_size,
        seed=recipe.seed,
    )
    model.set_attn_implementation(PLAIN)
    return (
        model,
        alignment,
        ZiyaProcessor(tokenizer, image_size=eyes.config.image_size, num_query_tokens=queries),
    )


def _pictures(texts: Album, side: int) -> np.ndarray:
    """uint8[N, S, S, 3], in the album's order."""
    pictures = np.empty((len(texts.examples), side, side, 3), np.uint8)
    with log.progress("open pictures", len(texts.examples)) as bar:
        for row, (first, *_) in enumerate(texts.examples):
            picture = open_picture(first)
            pictures[row] = np.asarray(
                picture
                if picture.size == (side, side)
                else picture.resize((side, side), Image.Resampling.BICUBIC)
            )
            bar.advance()
    return pictures
