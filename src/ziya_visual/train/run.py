"""From a recipe to its checkpoints: build everything that a recipe names, train its stages, save each.

This is the only module of ``train`` that sees a recipe; all others take plain arguments. The doctor calls the
same builders.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import write_json
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.data.leaks import refuse_leaks
from ziya_visual.model.build.compose import set_image_size
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.model.lora import (
    add_lora,
    freeze_all_but,
    parameters_by_part,
    parameters_for_rule,
    save_adapter,
)
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.train.batches import Batches, TrainingData, TrainingTexts, load_images, prefetch, read_data
from ziya_visual.train.image_features import FeatureExtractor
from ziya_visual.train.loop import StageTrainer
from ziya_visual.train.model import (
    BuiltModel,
    checkpoint_on_meta,
    compose_model,
    open_checkpoint,
    prepare_llm_blocks,
    shard_llm_blocks,
)
from ziya_visual.train.monitor import HeldOut, Monitor, open_trackers, sample_questions
from ziya_visual.train.objectives import LossWeights
from ziya_visual.train.optimizer import Optimizer
from ziya_visual.train.run_state import STATES, read_state
from ziya_visual.train.speed import Speed, StepCost


def run_recipe(recipe: Recipe) -> Path:
    """Train all stages of a recipe and save each in ``recipe.out``; a killed run resumes.

    Returns:
        The folder of the last stage: a checkpoint, or an adapter if the recipe says so.

    Raises:
        ConfigError: the recipe names neither a checkpoint nor the parts of one.
        DataError: no record of the data can be used, or training and held-out data share images.
        CheckpointError: the model cannot be opened.
    """
    distributed.start()
    if distributed.rank() > 0:
        log.quiet()
    examples = read_data(recipe.data.path, rejects=recipe.out / "rejects.jsonl")
    paths = recipe.validation.path if recipe.validation else ()
    held_out = {
        str(path): read_data([path], rejects=recipe.out / f"rejects-validation-{number}.jsonl")
        for number, path in enumerate(paths)
    }
    if distributed.rank() == 0:
        refuse_leaks(examples, held_out, allowed=recipe.data.shared, cache=recipe.out / "fingerprints.npz")
    built = build_model(recipe)
    data = load_images(examples, image_size=built.processor.image_size)
    held_out_examples = [example for dataset in held_out.values() for example in dataset]
    held_out_data = None
    if held_out_examples:
        held_out_data = load_images(held_out_examples, image_size=built.processor.image_size)
    curve = train(recipe, built, data, held_out_data)
    if distributed.rank() == 0:
        write_json(recipe.out / "curve.json", curve)
    return recipe.out / recipe.stages[-1].name


def _save_stage(recipe: Recipe, built: BuiltModel, number: int) -> None:
    folder, model, alignment = recipe.out / recipe.stages[number].name, built.model, built.alignment
    if recipe.save == "checkpoint":
        save_checkpoint(folder, model=model, alignment=alignment, processor=built.processor)
    else:
        base = recipe.model.checkpoint
        assert base is not None, "the recipe was checked"
        trained = list(dict.fromkeys(rule for stage in recipe.stages[: number + 1] for rule in stage.trains))
        save_adapter(folder, model=model, alignment=alignment, trained=trained, base=base)
    log.logger.info("stage %s: %s", recipe.stages[number].name, folder)


def build_model(recipe: Recipe, *, meta: bool = False) -> BuiltModel:
    """Open or compose the recipe's model; with ``meta`` its parameters are on the meta device."""
    spec = recipe.model
    if spec.checkpoint is not None and meta:
        built = checkpoint_on_meta(spec.checkpoint, precision=recipe.precision)
    elif spec.checkpoint is not None:
        built = open_checkpoint(
            spec.checkpoint,
            precision=recipe.precision,
            seed=recipe.seed,
            quantize=spec.quantize,
            needs_alignment=recipe.save == "adapter",
        )
    elif spec.vision is not None and spec.language_model is not None:
        qformer = spec.bridge.model_dump()
        built = compose_model(spec.vision, spec.language_model, qformer=qformer, seed=recipe.seed, meta=meta)
    else:
        raise ConfigError("model: give a checkpoint, or both vision and language_model")
    if spec.attention != PLAIN:
        built.model.language_model.set_attn_implementation(spec.attention)
    if spec.image_size is not None:
        set_image_size(built.model, spec.image_size)
        built.processor.image_size = spec.image_size
    return built


def build_batches(
    recipe: Recipe, number: int, built: BuiltModel, texts: TrainingTexts, *, held_out: bool = False
) -> Batches:
    """Build this rank's batches of a stage, from training or held-out texts."""
    stage = recipe.stages[number]
    return Batches(
        texts,
        built.processor.chat,
        tasks=stage.tasks,
        images_per_step=stage.images_per_step,
        texts_per_image=stage.texts_per_image,
        texts_per_step=0 if held_out else stage.texts_per_step,
        num_image_tokens=built.processor.num_query_tokens,
        seed=recipe.seed * 1000 + number,
        max_caption_tokens=built.model.config.qformer_config.max_position_embeddings,
        caption_tokenizer=built.alignment.qformer_tokenizer,
        temperature=None if held_out else recipe.data.temperature,
        varied=recipe.data.phrasings == "varied",
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def build_features(recipe: Recipe, built: BuiltModel, pixels: np.ndarray) -> FeatureExtractor:
    """Build the features of images, uint8[N, S, S, 3]."""
    return FeatureExtractor(
        built.model, built.processor, pixels, precision=recipe.precision,
        cache_folder=recipe.cache.path or recipe.out / "features",
        cache_gigabytes=recipe.cache.gigabytes, vision_frozen=not trains_vision(recipe),
    )  # fmt: skip


def trains_vision(recipe: Recipe) -> bool:
    """Return whether any stage trains the ViT; otherwise all stages use the same features of an image."""
    return any("vision" in stage.parts for stage in recipe.stages)


def needs_queries_only(stage: Stage) -> bool:
    """Return whether a frozen Q-Former's queries are all that a stage needs of an image."""
    learns = {"vision", "qformer", "query_tokens"}.intersection(stage.parts)
    return not learns and not stage.objectives.matching and not stage.objectives.grounded


def loss_weights(stage: Stage) -> LossWeights:
    """Return the weights of a stage's losses."""
    return LossWeights(**stage.objectives.model_dump())


def prepare_stage(recipe: Recipe, number: int, built: BuiltModel) -> dict[str, int]:
    """Add the stage's adapters, freeze the rest, and return the number of trained parameters by rule."""
    stage = recipe.stages[number]
    if "lora" in stage.parts:
        torch.manual_seed(recipe.seed)  # the adapters start alike, however the run came here
        add_lora(built.model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
        built.model.to(built.model.device)
    table = freeze_all_but(built.model, built.alignment, stage.trains)
    prepare_llm_blocks(built.model, recompute=recipe.recompute, compiled=recipe.compile)
    return table


def build_optimizer(recipe: Recipe, number: int, built: BuiltModel) -> Optimizer:
    """Build the optimizer of what the stage trains, each part at its learning rate."""
    stage = recipe.stages[number]
    parts = parameters_by_part(built.model, built.alignment)
    scales = {
        parameter: rate / stage.learning_rate
        for part, rate in stage.learning_rates.items()
        for parameter in parameters_for_rule(parts, part).values()
    }
    return Optimizer(built.named_parameters(), scales=scales, matrices=recipe.optimizer)


def train(
    recipe: Recipe, built: BuiltModel, data: TrainingData, held_out: TrainingData | None = None
) -> list[dict[str, Any]]:
    """Train and save all stages, from the run's saved state if there is one, and return the learning curve.

    The model is changed in place, and moved to the GPU if there is one.

    Raises:
        FloatingPointError: ten steps in a row had a loss or gradient that is not finite.
    """
    device = distributed.start().device
    if recipe.shard:
        _check_shards(recipe)
        shard_llm_blocks(built.model)
    built.model.to(device)
    built.alignment.to(device)
    with distributed.first_rank_first():
        saved = read_state(recipe.out / STATES)
    run = _Run(recipe, built, data, held_out)
    folder, config = recipe.out / "tensorboard", {"recipe": recipe.model_dump_json()}
    with open_trackers(recipe.trackers, project=recipe.name, folder=folder, config=config) as trackers:
        for number in range(len(recipe.stages)):
            trained = prepare_stage(recipe, number, built)
            if saved is not None and number < saved["stage"]:
                continue
            run.train_stage(number, trained, saved, trackers)
            saved = None
            if distributed.rank() == 0:
                _save_stage(recipe, built, number)
            distributed.barrier()
    return run.curve


def _check_shards(recipe: Recipe) -> None:
    """Refuse steps that would leave a rank waiting for ever for blocks that the others are done with."""
    world_size = distributed.world_size()
    if world_size == 1:
        raise ConfigError("shard: there is one process; start several with torchrun, or leave it out")
    for stage in recipe.stages:
        for name in ("images_per_step", "texts_per_step"):
            if (size := getattr(stage, name)) % world_size:
                sharing = f"{world_size} processes cannot share evenly"
                raise ConfigError(f"stage {stage.name}: {name} is {size}, which {sharing}")


class _Run:
    """What the stages of a run share."""

    def __init__(
        self, recipe: Recipe, built: BuiltModel, data: TrainingData, held_out: TrainingData | None
    ) -> None:
        self.recipe, self.built, self.data, self.held_out = recipe, built, data, held_out
        self.curve: list[dict[str, Any]] = []
        self.features = build_features(recipe, built, data.pixels)
        self.held_out_features = build_features(recipe, built, held_out.pixels) if held_out else None
        self.questions = sample_questions(held_out or data) if recipe.sample_every else []

    def train_stage(
        self, number: int, trained: dict[str, int], saved: dict[str, Any] | None, trackers: list[Any]
    ) -> None:
        """Train a stage from its first step or from a saved state."""
        recipe, built, stage = self.recipe, self.built, self.recipe.stages[number]
        optimizer = build_optimizer(recipe, number, built)
        batches = build_batches(recipe, number, built, self.data.texts)
        log.logger.info("stage %s trains %s", stage.name, ", ".join(f"{k} {v:,}" for k, v in trained.items()))
        trainer = StageTrainer(
            name=stage.name,
            number=number,
            model=built.model,
            alignment=built.alignment,
            optimizer=optimizer,
            batches=partial(prefetch, batches),
            get_features=self.features.for_stage(queries_only=needs_queries_only(stage)),
            monitor=self._monitor(number, trackers),
            weights=loss_weights(stage),
            langs=self.data.texts.langs,
            steps=stage.steps,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup_steps,
            final_fraction=stage.final_fraction,
            images_at_once=stage.images_at_once,
            precision=recipe.precision,
            seed=recipe.seed * 1_000_003 + number * 100_003,
            states=recipe.out / STATES,
            save_every=recipe.save_every,
        )
        trainer.run(saved)
        report = batches.mixture_report(stage.steps)
        if distributed.rank() == 0 and report:
            write_json(recipe.out / f"mixture-{stage.name}.json", report)
            for row in report:
                log.logger.info(
                    "stage %s: %s drawn %d times (%.1f %%, wanted %.1f), %.2f epochs of %d", stage.name,
                    row["name"], row["drawn"], 100 * row["drawn_share"], 100 * row["share"], row["epochs"],
                    row["records"],
                )  # fmt: skip

    def _monitor(self, number: int, trackers: list[Any]) -> Monitor:
        recipe, built, stage = self.recipe, self.built, self.recipe.stages[number]
        queries_only, held_out = needs_queries_only(stage), None
        if self.held_out and self.held_out_features:
            held_out = HeldOut(
                build_batches(recipe, number, built, self.held_out.texts, held_out=True),
                self.held_out_features.for_stage(queries_only=queries_only),
                self.held_out.texts.langs,
            )
        cost = StepCost.of(built.model, encodes=trains_vision(recipe), queries=not queries_only)
        validation = recipe.validation
        return Monitor(
            stage=stage.name,
            steps=stage.steps,
            steps_before=sum(before.steps for before in recipe.stages[:number]),
            precision=recipe.precision,
            out=recipe.out,
            curve=self.curve,
            trackers=trackers,
            speed=Speed(built.model.device, cost),
            examples=self.data.texts.examples,
            model=built.model,
            alignment=built.alignment,
            processor=built.processor,
            questions=self.questions,
            sample_every=recipe.sample_every,
            held_out=held_out,
            validate_every=validation.every if validation else 1,
            best=validation.best if validation else None,
            set_train_mode=partial(prepare_stage, recipe, number, built),
        )
