"""``ziya-visual score``: official metrics from files alone, with a card that lets anyone repeat them."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ziya_visual import __version__
from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.io import hash_file, read_json
from ziya_visual.eval.metrics.bootstrap import interval
from ziya_visual.eval.score_captions import score_caption, score_translation
from ziya_visual.eval.score_files import Scored
from ziya_visual.eval.score_forms import (
    score_gqa,
    score_mcq,
    score_pope,
    score_retrieval,
    score_scienceqa,
    score_vqa,
)
from ziya_visual.eval.score_judge import score_judge

FORMS: dict[str, Callable[..., Scored]] = {
    "caption": score_caption,
    "vqa": score_vqa,
    "gqa": score_gqa,
    "pope": score_pope,
    "scienceqa": score_scienceqa,
    "mcq": score_mcq,
    "retrieval": score_retrieval,
    "translation": score_translation,
    "judge": score_judge,
}


def run(form: str, *, command: str = "", **inputs: Any) -> dict[str, Any]:
    """Score files: ``{"scores": {name: number}, "failures": {reason: count}, "card": {...}}``.

    Args:
        form: one of :data:`FORMS`.
        command: what was typed, for the card.
        **inputs: the files and options of the form; ``None`` stands for one that was not given.

    Raises:
        ConfigError: an unknown form or option, or one that is missing.
        DataError: a file that cannot be scored.
    """
    scored, given = _evaluate(form, inputs)
    return {
        "scores": dict(scored.scores),
        "failures": dict(scored.failures),
        "card": _card(form, given, scored, command),
    }


def _evaluate(form: str, inputs: dict[str, Any]) -> tuple[Scored, dict[str, Any]]:
    if form not in FORMS:
        raise ConfigError(f"score {form}: unknown form{nearest(form, FORMS)}")
    accepted = inspect.signature(FORMS[form]).parameters
    given = {name: value for name, value in inputs.items() if value is not None}
    for name in given:
        if name not in accepted:
            raise ConfigError(
                f"score {form} has no option --{name.replace('_', '-')}{nearest(name, accepted)}"
            )
    for name, parameter in accepted.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"score {form} needs --{name.replace('_', '-')}")
    return FORMS[form](**given), given


def _card(form: str, given: dict[str, Any], scored: Scored, command: str) -> dict[str, Any]:
    files = {
        name: {"path": str(value), "sha256": hash_file(value)}
        for name, value in given.items()
        if isinstance(value, Path)
    }
    intervals = {
        name: list(interval(list(values.values())))
        for name, values in scored.items.items()
        if len(values) > 1
    }
    return {
        "form": form,
        "rule": scored.rule,
        "options": {name: value for name, value in given.items() if name not in files},
        "files": files,
        "intervals": intervals,
        "not_computed": scored.not_computed,
        "notes": scored.notes,
        "versions": {
            "ziya-visual": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "command": command,
    }


def compare(form: str, first: dict[str, Any], second: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Paired differences, second minus first, with 95 % intervals over the items that both hold.

    Args:
        form: one of :data:`FORMS`.
        first: inputs of the first system, as for :func:`run`.
        second: those of the second.

    Returns:
        Score name -> ``first``, ``second``, ``difference``, ``low``, ``high``, ``n``.
    """
    a, b = (_evaluate(form, inputs)[0].items for inputs in (first, second))
    table = {}
    for name in a:
        shared = [item for item in a[name] if item in b.get(name, {})]
        if shared:
            x, y = (np.array([side[name][item] for item in shared]) for side in (a, b))
            low, high = interval(y - x)
            table[name] = {
                "first": float(x.mean()),
                "second": float(y.mean()),
                "difference": float((y - x).mean()),
                "low": low,
                "high": high,
                "n": float(len(shared)),
            }
    return table


def reproduce(path: Path) -> dict[str, Any]:
    """Score again from the card in a ``score --out`` file.

    Returns:
        ``{"equal": bool, "different": {name: [then, now]}, "scores": {...}}``.

    Raises:
        DataError: no card there, or a file that has changed since.
    """
    then = read_json(path)
    card = then.get("card") if isinstance(then, dict) else None
    if not isinstance(card, dict) or "form" not in card:
        raise DataError(f"{path}: holds no score card; expected a file written by score --out")
    inputs: dict[str, Any] = dict(card["options"])
    for name, entry in card["files"].items():
        file = Path(entry["path"])
        if not file.is_file():
            raise DataError(f"{path}: {file} ({name}) is gone")
        if hash_file(file) != entry["sha256"]:
            raise DataError(f"{path}: {file} ({name}) is not the file that was scored; its hash has changed")
        inputs[name] = file
    now = run(card["form"], **inputs)["scores"]
    then_scores = then["scores"]
    names = sorted({*now, *then_scores})
    different = {n: [then_scores.get(n), now.get(n)] for n in names if then_scores.get(n) != now.get(n)}
    return {"equal": not different, "different": different, "scores": now}
