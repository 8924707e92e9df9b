"""Whether a recipe can be run: its data, its model, the memory of every stage, and the time of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.errors import ZiyaError, one_line
from ziya_visual.core.recipe import Recipe
from ziya_visual.doctor.advice import Plan, advise, fits
from ziya_visual.doctor.checkpoint import TRAINABLE, examine_checkpoint
from ziya_visual.doctor.data import DataFound, examine_data, examine_tasks
from ziya_visual.doctor.machine import disk_free
from ziya_visual.doctor.memory import RESERVE
from ziya_visual.doctor.probe import probe
from ziya_visual.doctor.show import size
from ziya_visual.doctor.skeleton import by_part, count
from ziya_visual.train.batches import group_by_image
from ziya_visual.train.run import build_model
from ziya_visual.train.run_state import KEPT_STATES, STATES


@dataclass(slots=True)
class RecipeFound:
    """JSON-ready facts, what would make it fit, and a line for each thing that keeps it from working."""

    facts: dict[str, Any] = field(default_factory=dict)
    advice: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def examine_recipe(recipe: Recipe, machine: dict[str, Any], *, gpus: int | None) -> RecipeFound:
    """Examine a recipe; nothing is written.

    Args:
        recipe: what would be trained.
        machine: what :func:`examine_machine` found.
        gpus: how many GPUs to plan for besides this machine's CPU, or None.
    """
    found = RecipeFound()
    data = examine_data(recipe)
    found.problems += data.problems
    found.facts = {
        "name": recipe.name,
        "precision": recipe.precision,
        "data": data.sources,
    }
    if any((recipe.out / STATES).glob("*.pt")):
        found.notes.append(f"{recipe.out / STATES} is there: training goes on from it")
    if recipe.model.quantize:
        found.notes.append("model.quantize: 4 bits are counted as 16, the weights' bytes are about a quarter")
    plan = _plan(recipe, data, machine, found)
    rows = [] if plan is None else _stages(plan, gpus, found)
    if plan is not None and len(rows) == len(recipe.stages):
        _judge(plan, rows, machine, gpus, found)
        _disk(plan, rows, found.problems if gpus is None else found.notes, found.facts)
    if plan is None or found.problems:
        found.facts["probe"] = "not probed: what is wrong has to be mended first"
    elif not found.facts["fits"]["cpu"]:
        found.facts["probe"] = "not probed: a step does not fit in this machine's memory"
    else:
        _probe(plan, data, rows, found)
    return found


def _plan(recipe: Recipe, data: DataFound, machine: dict[str, Any], found: RecipeFound) -> Plan | None:
    """Data and model together, or None where one of them is not to be had."""
    for stage in recipe.stages:
        found.problems += examine_tasks(stage, data.examples) if data.examples else []
    try:
        if recipe.model.checkpoint is not None:
            checkpoint = examine_checkpoint(recipe.model.checkpoint, machine)
            found.problems += checkpoint.problems
            if checkpoint.facts["layout"] not in TRAINABLE:
                found.problems.append(
                    f"model.checkpoint: {recipe.model.checkpoint} is of the layout "
                    f"{checkpoint.facts['layout']!r}, training needs {' or '.join(TRAINABLE)}; "
                    "ziya-visual init makes one"
                )
        bones = build_model(recipe, meta=True)
        found.facts["parameters"] = {
            name: count(some) for name, some in by_part(bones.model, bones.alignment).items()
        }
        texts = group_by_image(data.examples) if data.examples else None
    except ZiyaError as error:
        found.problems.append(str(error))
        return None
    return None if texts is None else Plan(recipe, bones, texts)


def _stages(plan: Plan, gpus: int | None, found: RecipeFound) -> list[dict[str, Any]]:
    """A row a stage: what trains, and the memory of a step by part and by form."""
    rows: list[dict[str, Any]] = []
    found.facts["stages"] = rows
    with log.progress("dry steps", len(plan.recipe.stages)) as bar:
        for number, stage in enumerate(plan.recipe.stages):
            try:
                rows.append(_stage(plan, number, gpus))
            except Exception as error:  # whatever a dry step raises, a real one would
                found.problems.append(f"stage {stage.name}: {_said(error)}")
                break
            bar.advance()
            found.notes += [
                f"stage {stage.name}: trains {part}, but none of its objectives reaches it"
                for part, reached in rows[-1]["memory_bytes"]["gradients"].items()
                if reached == 0 and rows[-1]["trained"].get(part)
            ]
    return rows


def _stage(plan: Plan, number: int, gpus: int | None) -> dict[str, Any]:
    shape = plan.shape(number)
    memory = plan.step(number, "cpu")
    needed = {"cpu": plan.total(memory, "cpu", 1)}
    if gpus is not None:
        needed["gpu"] = plan.needed(number, "gpu")
    if gpus is not None and gpus > 1:
        each = plan.step(number, "ddp", gpus)
        needed |= {f"{form} {gpus}": plan.total(each, form, gpus) for form in ("ddp", "fsdp")}
    return {
        "stage": plan.recipe.stages[number].name,
        "trained": memory.trained,
        "frozen": memory.frozen,
        "shape": {
            "images": shape.images,
            "tokens": sum(map(sum, shape.lengths)),
            "supervised_tokens": shape.supervised,
        },
        "memory_bytes": {
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "casts": memory.casts,
            "pictures": plan.pictures(),
        },
        "needed_bytes": needed,
    }


def _judge(
    plan: Plan, rows: list[dict[str, Any]], machine: dict[str, Any], gpus: int | None, found: RecipeFound
) -> None:
    """Hold what each form needs against the devices that are here.

    Without GPUs to plan for, training is to run on the CPU; with them, the form that needs least has to fit.
    """
    memory = int(machine["ram"]["available_bytes"])
    cards = sorted((int(gpu["total_bytes"]) for gpu in machine["cuda"]), reverse=True)
    count = gpus or 1
    card = cards[count - 1] if len(cards) >= count else None
    needed = {form: max(row["needed_bytes"][form] for row in rows) for form in rows[0]["needed_bytes"]}
    have = {form: memory if form == "cpu" else card for form in needed}
    known = {form: None if room is None else fits(needed[form], room) for form, room in have.items()}
    found.facts["fits"] = known
    judged = min(list(needed)[1:], key=lambda form: needed[form]) if gpus else "cpu"
    room = have[judged]
    if room is not None and not known[judged]:
        _what_to_change(plan, rows, judged, count, room, found)
    if known[judged] and known.get(f"ddp {count}") is False:
        saved = needed[f"ddp {count}"] - needed[judged]
        row = {"change": f"shard=true on {count} GPUs", "saves_bytes": saved, "fits": True}
        found.advice.append({"form": f"ddp {count}", "stage": "the largest", **row})


def _what_to_change(
    plan: Plan, rows: list[dict[str, Any]], form: str, gpus: int, room: int, found: RecipeFound
) -> None:
    """A problem and advice for each stage that does not fit."""
    kind = form.partition(" ")[0]
    with log.progress("look for what would fit", None) as bar:
        for number, row in enumerate(rows):
            needed = row["needed_bytes"][form]
            if fits(needed, room):
                continue
            found.problems.append(
                f"stage {row['stage']}: needs {size(needed)} on {form}, {size(room)} are there "
                f"({RESERVE:.0%} of them are kept free); the advice says what to change"
            )
            for advice in advise(plan, number, kind, 1 if kind == "gpu" else gpus, room):
                found.advice.append({"form": form, "stage": row["stage"], **advice})
            bar.advance()


def _disk(plan: Plan, rows: list[dict[str, Any]], lines: list[str], facts: dict[str, Any]) -> None:
    """A checkpoint a stage; the states to go on from, with the one that is being written; the ViT's states.

    Args:
        plan: where it writes, and of how many pictures.
        rows: of the stages.
        lines: gets one where the disk is too small.
        facts: get the bytes.
    """
    weights, optimizer = (rows[-1]["memory_bytes"][name] for name in ("weights", "optimizer"))
    whole = sum(each for part, each in weights.items() if part != "lora")
    state = sum(each for part, each in weights.items() if part != "language_model") + sum(optimizer.values())
    needed = whole * len(rows) + (KEPT_STATES + 1) * state + plan.features()
    out = plan.recipe.out
    free = disk_free(out)
    facts["disk_bytes"] = needed
    if needed > free:
        lines.append(f"out: {out} will take {size(needed)}, {size(free)} are free there; give another out=")


def _probe(plan: Plan, data: DataFound, rows: list[dict[str, Any]], found: RecipeFound) -> None:
    """Take real steps and add their times to the rows."""
    try:
        probed = probe(plan.recipe, data.examples)
    except Exception as error:  # whatever a step raises here, training would meet
        found.facts["probe"] = "not probed: a step failed"
        found.problems.append(f"a real step: {_said(error)}")
        return
    ahead = probed[0]["seconds_per_picture"] * len(plan.texts.examples)
    for row, stage, timed in zip(rows, plan.recipe.stages, probed, strict=True):
        row |= timed
        row["seconds"] = timed["seconds_per_step"] * stage.steps
        if not timed["finite"]:
            found.problems.append(
                f"stage {stage.name}: the loss or its gradient is not finite at the first steps; "
                "the weights are broken, or precision=fp32 is needed"
            )
    found.facts["probe"] = {"seconds_ahead": ahead, "seconds": ahead + sum(row["seconds"] for row in rows)}


def _said(error: Exception) -> str:
    """What an error of ours says, or what a foreign one is, in one line."""
    said = one_line(error)
    return said if isinstance(error, ZiyaError) else f"fails: {type(error).__name__}: {said}"
