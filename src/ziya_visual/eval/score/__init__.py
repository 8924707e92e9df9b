"""``ziya-visual score``: every number from files alone, with a card that lets anyone repeat it.

Start with :func:`compute`, which scores published formats; ``measure_*`` in ``answers``, ``captions`` and
``retrieval`` score our own prediction files. It may import ``eval/metrics``, ``eval/judge``, ``eval/rows``,
``eval/results`` and ``eval/retrieval``, and never a model.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import hash_file, read_json
from ziya_visual.eval.results import INTERVAL_RULE, Scored, differences, find_intervals
from ziya_visual.eval.rows import read_value
from ziya_visual.eval.score import answers
from ziya_visual.eval.score.captions import score_caption, score_translation
from ziya_visual.eval.score.judge import score_judge
from ziya_visual.eval.score.retrieval import score_retrieval

Inputs = dict[str, Any]

FORMS: dict[str, Callable[..., Scored]] = {
    "caption": score_caption,
    "vqa": answers.score_vqa,
    "gqa": answers.score_gqa,
    "pope": answers.score_pope,
    "scienceqa": answers.score_scienceqa,
    "mcq": answers.score_mcq,
    "retrieval": score_retrieval,
    "translation": score_translation,
    "judge": score_judge,
}
_SIDES = ("first", "second")


def compute(
    form: str,
    *,
    command: str = "",
    per_item: bool = False,
    compare: tuple[Path, Path] | None = None,
    submission: tuple[str, Path] | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Score files and return ``{"scores": {name: number}, "failures": {reason: count}, "card": {...}}``.

    Args:
        form: one of :data:`FORMS`.
        command: the command line, for the card.
        per_item: add ``per_item``: item -> score name -> value, for scores that are means over items.
        compare: compare two systems: the predictions of each, or the file that ``score --out`` wrote for it.
            ``scores`` then holds, over the items that both have, ``name/first``, ``name/second``,
            ``name/difference`` (second minus first) and its paired 95 % interval ``name/low``, ``name/high``.
        submission: for ``vqa``, the evaluation server and the file to write for it. Without annotations,
            nothing else is computed.
        **inputs: files and options of the form; ``None`` means that an option was not set.

    An unknown or missing option raises ``ConfigError``, a file that cannot be scored ``DataError``.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    if submission is not None:
        if form != "vqa":
            raise ConfigError(f"score {form} has no option --submission; it is for vqa")
        files = {name: value for name, value in inputs.items() if name not in ("annotations", "rule")}
        written = _call(form, partial(answers.write_submission, *submission), files)
        if "annotations" not in inputs:
            return _result(written, _card("submission", files, written, command))
    if compare is not None:
        first, second = (_side(form, system, inputs) for system in compare)
        return _compare(form, first, second, command)
    scored = _score(form, inputs)
    result = _result(scored, _card(form, inputs, scored, command) | {"intervals": find_intervals(scored)})
    if per_item:
        by_item = result["per_item"] = {}
        for name, values in scored.items.items():
            for item, value in values.items():
                by_item.setdefault(item, {})[name] = value
    return result


def reproduce(path: Path) -> dict[str, Any]:
    """Score again from the card in a file of ``score --out``; a scored file must not have changed since.

    Returns ``{"equal": bool, "different": {name: [then, now]}, "scores": {...}}``.
    """
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    card, then = content.get("card"), content.get("scores")
    inputs = _card_inputs(path, card)
    assert isinstance(card, dict)
    if card["form"] not in FORMS or not isinstance(then, dict):
        raise DataError(f"{path}: a card of form {card['form']!r} without scores; nothing can be reproduced")
    if card.get("compare"):
        first, second = (
            {name.partition(".")[2]: value for name, value in inputs.items() if name.startswith(f"{side}.")}
            for side in _SIDES
        )
        now = _compare(card["form"], first, second, "")["scores"]
    else:
        now = dict(_score(card["form"], inputs).scores)
    names = sorted({*now, *then})
    different = {name: [then.get(name), now.get(name)] for name in names if then.get(name) != now.get(name)}
    return {"equal": not different, "different": different, "scores": now}


def _score(form: str, inputs: Inputs) -> Scored:
    if form not in FORMS:
        raise ConfigError(f"score {form}: unknown form{nearest(form, FORMS)}")
    return _call(form, FORMS[form], inputs)


def _call(form: str, function: Callable[..., Scored], inputs: Inputs) -> Scored:
    """Call a scorer with ``inputs`` after refusing unknown and missing options."""
    accepted = inspect.signature(function).parameters
    for name in inputs:
        if name not in accepted:
            raise ConfigError(
                f"score {form} has no option --{name.replace('_', '-')}{nearest(name, accepted)}"
            )
    for name, parameter in accepted.items():
        if parameter.default is inspect.Parameter.empty and name not in inputs:
            raise ConfigError(f"score {form} needs --{name.replace('_', '-')}")
    return function(**inputs)


def _result(scored: Scored, card: dict[str, Any]) -> dict[str, Any]:
    return {"scores": dict(scored.scores), "failures": dict(scored.failures), "card": card}


def _side(form: str, system: Path, inputs: Inputs) -> Inputs:
    """Return the inputs of one of two systems: those of its card, or the common ones with its predictions."""
    if form != "translation" and system.suffix != ".npz":
        value = read_value(system)
        if isinstance(value, dict) and "card" in value:
            return _card_inputs(system, value["card"]) | inputs
    if form == "retrieval":
        raise ConfigError("score retrieval --compare takes two files that score retrieval --out wrote")
    return inputs | {"predictions": system}


def _compare(form: str, first: Inputs, second: Inputs, command: str) -> dict[str, Any]:
    a, b = _score(form, first), _score(form, second)
    table = differences(a, b)
    for name in a.scores:
        if name in b.scores and name not in table:  # without items there is no interval
            x, y = a.scores[name], b.scores[name]
            table[name] = {"first": x, "second": y, "difference": y - x}
    scored = Scored({f"{name}/{key}": value for name, row in table.items() for key, value in row.items()})
    scored.rule, scored.packages, scored.notes = a.rule, a.packages, {"rule_of_second": b.rule}
    for side, side_scored in zip(_SIDES, (a, b), strict=True):
        scored.failures.update({f"{side}/{reason}": count for reason, count in side_scored.failures.items()})
    inputs = {
        f"{side}.{name}": value
        for side, side_inputs in zip(_SIDES, (first, second), strict=True)
        for name, value in side_inputs.items()
    }
    return _result(scored, _card(form, inputs, scored, command) | {"compare": True})


def _card(form: str, inputs: Inputs, scored: Scored, command: str) -> dict[str, Any]:
    """Return what anyone needs to repeat a score: rule, options, file hashes, versions and command line."""
    files = {
        name: {"path": str(value), "sha256": hash_file(value)}
        for name, value in inputs.items()
        if isinstance(value, Path)
    }
    versions = {name: version(name) for name in sorted({"ziya-visual", "numpy", *scored.packages})}
    return {
        "form": form,
        "rule": scored.rule,
        "options": {name: value for name, value in inputs.items() if name not in files},
        "files": files,
        "interval_rule": INTERVAL_RULE,
        "not_computed": scored.not_computed,
        "notes": scored.notes,
        "versions": versions | {"python": platform.python_version()},
        "command": command,
    }


def _card_inputs(path: Path, card: Any) -> Inputs:
    """Return the inputs that a card names, unchanged; look for files that have moved beside ``path``."""
    if not isinstance(card, dict) or not {"form", "options", "files"} <= set(card):
        raise DataError(f"{path}: has no score card; expected a file written by score --out")
    inputs: Inputs = dict(card["options"])
    for name, entry in card["files"].items():
        places = Path(entry["path"]), path.parent / Path(entry["path"]).name
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DataError(f"{path}: {places[0]} ({name}) no longer exists")
        if hash_file(file) != entry["sha256"]:
            raise DataError(f"{path}: {file} ({name}) is not the file that was scored; its hash has changed")
        inputs[name] = file
    return inputs
