"""Whether the data of a recipe can be read: records, pictures, tasks, languages; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError, nearest
from ziya_visual.core.pictures import load_image
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.core.records import TASKS, Example
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.formats import Imported
from ziya_visual.data.templates import Templates
from ziya_visual.doctor.memory import Shape
from ziya_visual.train.batches import TrainingTexts
from ziya_visual.train.model import BuiltModel
from ziya_visual.train.objectives import Batch
from ziya_visual.train.run import build_batches

DECODED = 8  # pictures of each source
DRAWN = 8  # batches of each stage
SHOWN = 3  # rejects of each source


@dataclass(slots=True)
class DataFound:
    """What was read of it, a JSON-ready row a source, and a line for each thing that stops training."""

    examples: list[Example] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def examine_data(recipe: Recipe) -> DataFound:
    """Read all records of ``data.path``, look for every picture, decode the first few of each source."""
    found = DataFound()
    for path in recipe.data.path:
        row: dict[str, Any] = {"path": str(path), "records": 0}
        found.sources.append(row)
        try:
            got = _read(path)
        except DataError as error:
            found.problems.append(f"data.path: {error}")
            continue
        found.examples += got.examples
        row |= _counted(got)
        if got.rejects and not got.examples:
            first = got.rejects[0]
            found.problems.append(
                f"data.path: {path}: none of {len(got.rejects)} rows is a record, the first at "
                f"{first.where}: {first.reason}"
            )
        found.problems += _pictures(got.examples, row)
    return found


def _read(path: Path) -> Imported:
    """Every row of a dataset as training reads it."""
    found = Imported()
    for row in iter_records(path):
        found.add(row)
    return found


def _counted(found: Imported) -> dict[str, Any]:
    return {
        "records": len(found.examples),
        "by_task_and_lang": _counts(found.examples),
        "rejects": len(found.rejects),
        "first_rejects": [f"{reject.where}: {reject.reason}" for reject in found.rejects[:SHOWN]],
    }


def _counts(examples: Iterable[Example]) -> dict[str, int]:
    return dict(sorted(Counter(f"{e.task}/{e.lang}" for e in examples).items()))


def _pictures(examples: list[Example], row: dict[str, Any]) -> list[str]:
    """Count the pictures, decode the first; a line for those that are absent or broken."""
    sources = {e.image_id: e.image for e in examples if e.image is not None and e.image_id is not None}
    row["pictures"] = len(sources)
    absent = [i.path for i in sources.values() if i.path is not None and not Path(i.path).is_file()]
    broken = []
    tried = [i for i in sources.values() if i.path is None or Path(i.path).is_file()][:DECODED]
    for image in tried:
        try:
            load_image(Path(image.path) if image.path else image.bytes or b"")
        except DataError as error:
            broken.append(str(error))
    row |= {"absent": len(absent), "decoded": len(tried) - len(broken), "broken": len(broken)}
    lines = [f"data.path: {row['path']}: {line}" for line in broken[:1]]
    if absent:
        lines.append(
            f"data.path: {row['path']}: {len(absent)} of {len(sources)} pictures are not there, the first "
            f"{absent[0]}; paths are from the folder that the command is run in"
        )
    return lines


def examine_tasks(stage: Stage, examples: list[Example]) -> list[str]:
    """A line for each task of the stage that there is not, or that no record has."""
    lines = []
    for task in stage.tasks:
        if task not in TASKS:
            lines.append(f"stage {stage.name}: tasks: unknown task {task!r}{nearest(task, TASKS)}")
        elif not any(example.task == task for example in examples):
            lines.append(f"stage {stage.name}: tasks: no record has the task {task!r}; take it out")
    for lang in sorted(
        {e.lang for e in examples if e.task in ("caption", "vqa") and stage.tasks.get(e.task)}
    ):
        try:
            Templates.load(lang)
        except DataError as error:
            lines.append(f"stage {stage.name}: {error}")
    return lines


def draw(recipe: Recipe, number: int, built: BuiltModel, texts: TrainingTexts) -> list[Batch]:
    """Return the first batches of a stage, as training draws them.

    Raises:
        DataError: no image has a text of the stage's tasks.
    """
    batches = build_batches(recipe, number, built, texts)
    return [batches[step] for step in range(min(DRAWN, recipe.stages[number].steps))]


def largest(batches: list[Batch]) -> Shape:
    """The size of a step that is as large as the largest of these in every way."""
    pairs: dict[int, tuple[int, int]] = {}
    for batch in batches:
        for lang, found in batch.captions.items():
            count, length = pairs.get(lang, (0, 0))
            pairs[lang] = (max(count, found.input_ids.shape[0]), max(length, found.input_ids.shape[1]))
    texts = [batch.texts for batch in batches if batch.texts is not None]
    return Shape(
        images=max(len(batch.images) for batch in batches),
        lengths=max((text.lengths for text in texts), key=lambda rows: sum(map(sum, rows))),
        supervised=max(batch.supervised for batch in batches),
        pairs=tuple(pairs[lang] for lang in sorted(pairs)),
    )
