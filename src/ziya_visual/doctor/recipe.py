"""Whether a recipe can be run: its data, its model, the memory of each stage, and the time of a step."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ziya_visual.core import log
from ziya_visual.core.errors import DataError, ZiyaError, nearest, one_line
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.core.records import TASKS, Example
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.templates import Templates
from ziya_visual.doctor.advice import Plan, advise
from ziya_visual.doctor.checkpoint import TRAINABLE, Report, examine_checkpoint
from ziya_visual.doctor.machine import disk_free, format_bytes
from ziya_visual.doctor.memory import RESERVE, by_part, count, first_batches, fits
from ziya_visual.train import run
from ziya_visual.train.batches import TrainingTexts, group_by_image, load_images
from ziya_visual.train.image_features import Encode
from ziya_visual.train.loop import forward_backward
from ziya_visual.train.model import BuiltModel
from ziya_visual.train.objectives import ImageFeatures
from ziya_visual.train.run_state import KEPT_STATES, STATES

DECODED_IMAGES = 8  # of each dataset
LISTED_REJECTS = 3  # of each dataset
PROBE_STEPS = 3  # of each stage; the first warms up and is not timed
ENCODED_IMAGES = 32  # on which the ViT is timed


def examine_recipe(recipe: Recipe, machine: dict[str, Any], *, gpus: int | None) -> Report:
    """Examine a recipe for this machine's CPU and, if given, a number of GPUs; nothing is written."""
    report = Report()
    examples, sources = examine_data(recipe, report.problems)
    report.facts = {"name": recipe.name, "precision": recipe.precision, "data": sources}
    if any((recipe.out / STATES).glob("*.pt")):
        report.notes.append(f"{recipe.out / STATES} has saved states: training will resume from them")
    if recipe.model.quantize:
        report.notes.append("model.quantize: 4-bit weights are counted as 16 bits; they take about a quarter")
    plan = _plan(recipe, examples, machine, report)
    rows = [] if plan is None else _stages(plan, gpus, report)
    if plan is not None and len(rows) == len(recipe.stages):
        _compare_with_devices(plan, rows, machine, gpus, report)
        _examine_disk(plan, rows, gpus, report)
    if plan is None or report.problems:
        report.facts["probe"] = "not probed: solve the problems first"
    elif not report.facts["fits"]["cpu"]:
        report.facts["probe"] = "not probed: a step does not fit in this machine's memory"
    else:
        _probe(plan, examples, rows, report)
    return report


def examine_data(recipe: Recipe, problems: list[str]) -> tuple[list[Example], list[dict[str, Any]]]:
    """Read all records of ``data.path``, look for every image, and decode the first few of each dataset.

    Return the records, and a JSON-ready row for each dataset; ``problems`` gets what stops training.
    """
    examples: list[Example] = []
    rows: list[dict[str, Any]] = []
    for path in recipe.data.path:
        rows.append({"path": str(path), "records": 0})
        try:
            records = list(iter_records(path))
        except DataError as error:
            problems.append(f"data.path: {error}")
            continue
        own = [record for record in records if isinstance(record, Example)]
        rejects = [record for record in records if not isinstance(record, Example)]
        rows[-1] |= {
            "records": len(own),
            "by_task_and_lang": dict(sorted(Counter(f"{e.task}/{e.lang}" for e in own).items())),
            "rejects": len(rejects),
            "first_rejects": [f"{reject.where}: {reject.reason}" for reject in rejects[:LISTED_REJECTS]],
        }
        if rejects and not own:
            problems.append(
                f"data.path: {path}: none of {len(rejects)} rows is a record, the first at "
                f"{rejects[0].where}: {rejects[0].reason}"
            )
        problems += _examine_images(own, rows[-1])
        examples += own
    return examples, rows


def _examine_images(examples: list[Example], row: dict[str, Any]) -> list[str]:
    """Count the images and decode the first; return a line for missing and one for broken images."""
    images: dict[str, Example] = {}
    for example in examples:
        if example.image is not None and example.image_id is not None:
            images.setdefault(example.image_id, example)
    paths = {name: example.image.path for name, example in images.items() if example.image}
    absent = {name: path for name, path in paths.items() if path is not None and not Path(path).is_file()}
    broken = []
    tried = [example for name, example in images.items() if name not in absent][:DECODED_IMAGES]
    for example in tried:
        try:
            open_picture(example)
        except DataError as error:
            broken.append(str(error))
    row |= {"pictures": len(images), "absent": len(absent)}
    row |= {"decoded": len(tried) - len(broken), "broken": len(broken)}
    lines = [f"data.path: {row['path']}: {line}" for line in broken[:1]]
    if absent:
        lines.append(
            f"data.path: {row['path']}: {len(absent)} of {len(images)} pictures do not exist, the first is "
            f"{next(iter(absent.values()))}; paths are relative to the folder in which you run the command"
        )
    return lines


def _examine_tasks(stage: Stage, examples: list[Example]) -> list[str]:
    """Return a line for each task of a stage that is unknown or that no record has."""
    lines = []
    for task in stage.tasks:
        if task not in TASKS:
            lines.append(f"stage {stage.name}: tasks: unknown task {task!r}{nearest(task, TASKS)}")
        elif not any(example.task == task for example in examples):
            lines.append(f"stage {stage.name}: tasks: no record has the task {task!r}; remove it")
    for lang in sorted(
        {e.lang for e in examples if e.task in ("caption", "vqa") and stage.tasks.get(e.task)}
    ):
        try:
            Templates.load(lang)
        except DataError as error:
            lines.append(f"stage {stage.name}: {error}")
    return lines


def _plan(recipe: Recipe, examples: list[Example], machine: dict[str, Any], report: Report) -> Plan | None:
    """Return data and model together, or None if either is unusable."""
    for stage in recipe.stages:
        report.problems += _examine_tasks(stage, examples) if examples else []
    try:
        if recipe.model.checkpoint is not None:
            checkpoint = examine_checkpoint(recipe.model.checkpoint, machine)
            report.problems += checkpoint.problems
            if checkpoint.facts["layout"] not in TRAINABLE:
                report.problems.append(
                    f"model.checkpoint: {recipe.model.checkpoint} has the layout "
                    f"{checkpoint.facts['layout']!r}, but training needs {' or '.join(TRAINABLE)}; "
                    "create one with ziya-visual init"
                )
        built = run.build_model(recipe, meta=True)
        parts = by_part(built.model, built.alignment)
        report.facts["parameters"] = {name: count(parameters) for name, parameters in parts.items()}
        return Plan(recipe, built, group_by_image(examples)) if examples else None
    except ZiyaError as error:
        report.problems.append(str(error))
        return None


def _stages(plan: Plan, gpus: int | None, report: Report) -> list[dict[str, Any]]:
    """Return a row for each stage: its trained parts, and the memory of a step by part and form."""
    rows: list[dict[str, Any]] = []
    report.facts["stages"] = rows
    with log.progress("dry steps", len(plan.recipe.stages)) as bar:
        for number, stage in enumerate(plan.recipe.stages):
            try:
                rows.append(_stage(plan, number, gpus))
            except Exception as error:  # a real step would raise the same
                report.problems.append(f"stage {stage.name}: {_describe(error)}")
                break
            bar.advance()
            report.notes += [
                f"stage {stage.name}: trains {part}, but none of its objectives reaches it"
                for part, gradient_bytes in rows[-1]["memory_bytes"]["gradients"].items()
                if gradient_bytes == 0 and rows[-1]["trained"].get(part)
            ]
    return rows


def _stage(plan: Plan, number: int, gpus: int | None) -> dict[str, Any]:
    shape, memory = plan.shape(number), plan.step(number)
    tokens = sum(map(sum, shape.lengths))
    counted = ("weights", "gradients", "optimizer", "activations", "casts")
    needed = {"cpu": plan.total(memory, "cpu", 1)}
    if gpus is not None:
        needed["gpu"] = plan.total(memory, "gpu", 1)
    if gpus is not None and gpus > 1:
        share = plan.step(number, gpus)
        needed |= {f"{form} {gpus}": plan.total(share, form, gpus) for form in ("ddp", "fsdp")}
    return {
        "stage": plan.recipe.stages[number].name,
        "trained": memory.trained,
        "frozen": memory.frozen,
        "shape": {"images": shape.images, "tokens": tokens, "supervised_tokens": shape.supervised},
        "memory_bytes": {k: getattr(memory, k) for k in counted} | {"pictures": plan.pixel_bytes()},
        "needed_bytes": needed,
    }


def _compare_with_devices(
    plan: Plan, rows: list[dict[str, Any]], machine: dict[str, Any], gpus: int | None, report: Report
) -> None:
    """Compare needs with this machine's devices: the CPU must fit, or the GPU form that needs least."""
    memory = int(machine["ram"]["available_bytes"])
    gpu_bytes = sorted((int(gpu["total_bytes"]) for gpu in machine["cuda"]), reverse=True)
    world_size = gpus or 1
    smallest_gpu = gpu_bytes[world_size - 1] if len(gpu_bytes) >= world_size else None
    needed = {form: max(row["needed_bytes"][form] for row in rows) for form in rows[0]["needed_bytes"]}
    available = {form: memory if form == "cpu" else smallest_gpu for form in needed}
    verdicts = {form: None if size is None else fits(needed[form], size) for form, size in available.items()}
    report.facts["fits"] = verdicts
    best = min(list(needed)[1:], key=lambda form: needed[form]) if gpus else "cpu"
    room = available[best]
    if room is not None and not verdicts[best]:
        _advise_stages(plan, rows, best, world_size, room, report)
    if verdicts[best] and verdicts.get(f"ddp {world_size}") is False:
        saved = needed[f"ddp {world_size}"] - needed[best]
        row = {"change": f"shard=true on {world_size} GPUs", "saves_bytes": saved, "fits": True}
        report.advice.append({"form": f"ddp {world_size}", "stage": "the largest", **row})


def _advise_stages(
    plan: Plan, rows: list[dict[str, Any]], form: str, gpus: int, available: int, report: Report
) -> None:
    """Add a problem and advice for each stage that does not fit."""
    kind = form.partition(" ")[0]
    with log.progress("look for changes that would fit", None) as bar:
        for number, row in enumerate(rows):
            needed = row["needed_bytes"][form]
            if fits(needed, available):
                continue
            report.problems.append(
                f"stage {row['stage']}: needs {format_bytes(needed)} on {form}, but only "
                f"{format_bytes(available)} are available, of which {RESERVE:.0%} must stay free; "
                "the advice lists what to change"
            )
            for advice in advise(plan, number, kind, 1 if kind == "gpu" else gpus, available):
                report.advice.append({"form": form, "stage": row["stage"], **advice})
            bar.advance()


def _examine_disk(plan: Plan, rows: list[dict[str, Any]], gpus: int | None, report: Report) -> None:
    """Add the disk space of checkpoints, saved states (one more while it is being written) and features."""
    weights, optimizer = (rows[-1]["memory_bytes"][name] for name in ("weights", "optimizer"))
    checkpoint = sum(part for name, part in weights.items() if name != "lora")
    state = sum(part for name, part in weights.items() if name != "language_model") + sum(optimizer.values())
    needed = checkpoint * len(rows) + (KEPT_STATES + 1) * state + plan.feature_bytes()
    out = plan.recipe.out
    free = disk_free(out)
    report.facts["disk_bytes"] = needed
    if needed > free:
        lines = report.problems if gpus is None else report.notes  # a plan may be for another machine
        lines.append(
            f"out: {out} will take {format_bytes(needed)}, but only {format_bytes(free)} are free there; "
            "choose another folder with out="
        )


def _probe(plan: Plan, examples: list[Example], rows: list[dict[str, Any]], report: Report) -> None:
    """Run real steps and add their times to the rows."""
    try:
        times = time_stages(plan.recipe, examples)
    except Exception as error:  # training would raise the same
        report.facts["probe"] = "not probed: a step failed"
        report.problems.append(f"a real step: {_describe(error)}")
        return
    seconds_ahead = times[0]["seconds_per_picture"] * len(plan.texts.examples)
    for row, stage, stage_times in zip(rows, plan.recipe.stages, times, strict=True):
        row |= stage_times
        row["seconds"] = stage_times["seconds_per_step"] * stage.steps
        if not stage_times["finite"]:
            report.problems.append(
                f"stage {stage.name}: the loss or a gradient is not finite in the first steps; "
                "the weights are damaged, or precision=fp32 is needed"
            )
    total = seconds_ahead + sum(row["seconds"] for row in rows)
    report.facts["probe"] = {"seconds_ahead": seconds_ahead, "seconds": total}


def _describe(error: Exception) -> str:
    """Return an error on one line, with its type if it is not one of ours."""
    text = one_line(error)
    return text if isinstance(error, ZiyaError) else f"fails: {type(error).__name__}: {text}"


def time_stages(recipe: Recipe, examples: list[Example]) -> list[dict[str, Any]]:
    """Time a few real steps of every stage on the first images; weights and disk do not change.

    ``seconds_per_picture`` is the time to encode ahead, 0 if the ViT runs in every step; ``process_bytes`` is
    the memory after the steps.
    """
    built = run.build_model(recipe)
    data = load_images(_first_images(recipe, examples), image_size=built.processor.image_size)
    built.model.requires_grad_(False)
    encode = run.build_features(recipe, built, data.pixels).encode
    get_embeds: Encode = encode
    seconds_per_image = 0.0
    if not run.trains_vision(recipe):
        timed = np.arange(min(ENCODED_IMAGES, len(data.pixels)))
        started = time.perf_counter()
        encode(timed)
        seconds_per_image = (time.perf_counter() - started) / len(timed)
        get_embeds = encode(np.arange(len(data.pixels))).__getitem__
    rows = []
    for number in range(len(recipe.stages)):
        run.prepare_stage(recipe, number, built)
        seconds, finite = _time_steps(recipe, number, built, data.texts, get_embeds)
        row = {"seconds_per_step": seconds, "seconds_per_picture": seconds_per_image}
        rows.append(row | {"process_bytes": psutil.Process().memory_info().rss, "finite": finite})
    return rows


def _first_images(recipe: Recipe, examples: list[Example]) -> list[Example]:
    """Return the records of as many images as a step of each stage takes."""
    selected: set[str] = set()
    for stage in recipe.stages:
        usable = (e.image_id for e in examples if e.image and stage.tasks.get(e.task, 0) > 0)
        selected |= set([name for name in dict.fromkeys(usable) if name][: stage.images_per_step])
    return [example for example in examples if example.image_id in selected]


def _time_steps(
    recipe: Recipe, number: int, built: BuiltModel, texts: TrainingTexts, get_embeds: Encode
) -> tuple[float, bool]:
    """Return the mean seconds of a stage's steps, and whether all gradients were finite."""
    stage = recipe.stages[number]
    optimizer = run.build_optimizer(recipe, number, built)
    batches = first_batches(recipe, number, built, texts)

    def get_features(images: np.ndarray) -> ImageFeatures:
        embeds = get_embeds(images)
        return ImageFeatures(embeds, built.model.query_images(embeds))

    seconds, finite = [], True
    for step in range(PROBE_STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        forward_backward(
            built.model, built.alignment, batches[step % len(batches)], get_features,
            weights=run.loss_weights(stage), langs=texts.langs, step=step, precision=recipe.precision,
            images_at_once=stage.images_at_once,
        )  # fmt: skip
        finite &= optimizer.clip_and_update(lr=0.0)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / (PROBE_STEPS - 1), finite
