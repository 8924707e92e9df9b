"""``ziya-visual doctor``: what is here, what fits, what to change. It writes nothing to disk."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, ZiyaError
from ziya_visual.core.recipe import load_recipe


def doctor(
    target: Path | None, changes: Sequence[str] = (), *, gpus: int | None = None, json_output: bool = False
) -> int:
    """Examine the machine and a recipe or checkpoint, and print what was found.

    Args:
        target: a recipe file, a checkpoint folder, or None for the machine alone.
        changes: ``key=value`` on the recipe, as ``train`` takes them.
        gpus: how many GPUs to plan a recipe for.
        json_output: print one JSON object instead of tables; sizes in bytes.

    Returns:
        The exit code: 0, or 2 after a line on standard error for each thing that keeps it from working.
    """
    report = examine(target, changes, gpus=gpus)
    if json_output:
        print(json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False))
    else:
        from ziya_visual.doctor.show import show

        show(report)
    for line in report["problems"]:
        print(f"error: {line}", file=sys.stderr)
    return 2 if report["problems"] else 0


def examine(target: Path | None, changes: Sequence[str] = (), *, gpus: int | None = None) -> dict[str, Any]:
    """The report: ``machine``, ``checkpoint`` or ``recipe``, ``advice``, ``notes``, ``problems``."""
    from ziya_visual.doctor.machine import examine_machine, version_problems

    machine = examine_machine()
    report: dict[str, Any] = {
        "machine": machine,
        "advice": [],
        "notes": [],
        "problems": version_problems(machine),
    }
    if target is None or report["problems"]:
        return report
    try:
        with warnings.catch_warnings():  # of peft about transformers' names
            warnings.simplefilter("ignore", FutureWarning)
            _examine_target(target, changes, gpus, report)
    except ZiyaError as error:
        report["problems"].append(str(error))
    return report


def _examine_target(target: Path, changes: Sequence[str], gpus: int | None, report: dict[str, Any]) -> None:
    if not target.exists():
        raise ConfigError(f"{target}: not found; give a recipe file or a checkpoint folder")
    if target.is_dir() and (changes or gpus):
        raise ConfigError(f"{target}: key=value and --gpus go with a recipe file, this is a folder")
    recipe = None if target.is_dir() else load_recipe(target, changes)
    from transformers.utils import logging

    logging.set_verbosity_error()  # what transformers would say about keys is said by us
    logging.disable_progress_bar()
    if recipe is None:
        from ziya_visual.doctor.checkpoint import examine_checkpoint

        checkpoint = examine_checkpoint(target, report["machine"])
        report["checkpoint"] = checkpoint.facts
        report["problems"] += checkpoint.problems
    else:
        from ziya_visual.doctor.recipe import examine_recipe

        found = examine_recipe(recipe, report["machine"], gpus=gpus)
        report |= {"recipe": found.facts, "advice": found.advice, "notes": found.notes}
        report["problems"] += found.problems
