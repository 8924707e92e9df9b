"""``ziya-visual score``: official metrics from files alone, with a card that lets anyone repeat them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import read_json
from ziya_visual.eval.score.captions import score_caption, score_translation
from ziya_visual.eval.score.card import card_inputs, make_card
from ziya_visual.eval.score.choice import score_mcq, score_pope, score_scienceqa
from ziya_visual.eval.score.files import Scored, read_value
from ziya_visual.eval.score.intervals import differences, find_intervals
from ziya_visual.eval.score.judge import score_judge
from ziya_visual.eval.score.retrieval import score_retrieval
from ziya_visual.eval.score.vqa import score_gqa, score_vqa, write_submission

Inputs = dict[str, Any]

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
_SIDES = ("first", "second")


def run(
    form: str,
    *,
    command: str = "",
    per_item: bool = False,
    compare: tuple[Path, Path] | None = None,
    submission: tuple[str, Path] | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Score files: ``{"scores": {name: number}, "failures": {reason: count}, "card": {...}}``.

    Args:
        form: one of :data:`FORMS`.
        command: what was typed, for the card.
        per_item: add ``per_item``: item -> score name -> value, for the scores that are means over items.
        compare: two systems in place of one: the predictions of each, or what ``score --out`` wrote for it.
            ``scores`` are then, over the items that both hold, ``name/first``, ``name/second``,
            ``name/difference`` (second less first) and its paired 95 % interval ``name/low``, ``name/high``.
        submission: with ``vqa``, the server and the file to write for it; without annotations nothing else.
        **inputs: the files and options of the form; ``None`` stands for one that was not given.

    Raises:
        ConfigError: an unknown form or option, or one that is missing.
        DataError: a file that cannot be scored.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if submission is not None:
        if form != "vqa":
            raise ConfigError(f"score {form} has no option --submission; it is for vqa")
        wanted = {name: value for name, value in given.items() if name not in ("annotations", "rule")}
        written = _call(form, partial(write_submission, *submission), wanted)
        if "annotations" not in given:
            return _result(written, make_card("submission", wanted, written, command))
    if compare is not None:
        first, second = (_side(form, system, given) for system in compare)
        return _compare(form, first, second, command)
    scored = _evaluate(form, given)
    result = _result(scored, make_card(form, given, scored, command) | {"intervals": find_intervals(scored)})
    if per_item:
        result["per_item"] = _by_item(scored)
    return result


def _evaluate(form: str, given: Inputs) -> Scored:
    if form not in FORMS:
        raise ConfigError(f"score {form}: unknown form{nearest(form, FORMS)}")
    return _call(form, FORMS[form], given)


def _call(form: str, function: Callable[..., Scored], given: Inputs) -> Scored:
    """Call with the given inputs, after refusing those that are unknown or lacking."""
    accepted = inspect.signature(function).parameters
    for name in given:
        if name not in accepted:
            raise ConfigError(
                f"score {form} has no option --{name.replace('_', '-')}{nearest(name, accepted)}"
            )
    for name, parameter in accepted.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"score {form} needs --{name.replace('_', '-')}")
    return function(**given)


def _result(scored: Scored, card: dict[str, Any]) -> dict[str, Any]:
    return {"scores": dict(scored.scores), "failures": dict(scored.failures), "card": card}


def _by_item(scored: Scored) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, values in scored.items.items():
        for item, value in values.items():
            found.setdefault(item, {})[name] = value
    return found


def _side(form: str, system: Path, given: Inputs) -> Inputs:
    """The inputs of one of two systems: those of its card, or the given ones with its predictions."""
    if form != "translation" and system.suffix != ".npz":
        value = read_value(system)
        if isinstance(value, dict) and "card" in value:
            return card_inputs(system, value["card"]) | given
    if form == "retrieval":
        raise ConfigError("score retrieval --compare takes two files that score retrieval --out wrote")
    return given | {"predictions": system}


def _compare(form: str, first: Inputs, second: Inputs, command: str) -> dict[str, Any]:
    one, other = _evaluate(form, first), _evaluate(form, second)
    table = differences(one, other)
    for name in one.scores:
        if name in other.scores and name not in table:  # no interval: it is not known what an item adds
            x, y = one.scores[name], other.scores[name]
            table[name] = {"first": x, "second": y, "difference": y - x}
    scored = Scored({f"{name}/{key}": value for name, row in table.items() for key, value in row.items()})
    scored.rule, scored.packages, scored.notes = one.rule, one.packages, {"rule_of_second": other.rule}
    for side, found in zip(_SIDES, (one, other), strict=True):
        scored.failures.update({f"{side}/{reason}": count for reason, count in found.failures.items()})
    given = {
        f"{side}.{name}": value
        for side, inputs in zip(_SIDES, (first, second), strict=True)
        for name, value in inputs.items()
    }
    return _result(scored, make_card(form, given, scored, command) | {"compare": True})


def reproduce(path: Path) -> dict[str, Any]:
    """Score again from the card in a ``score --out`` file.

    Returns:
        ``{"equal": bool, "different": {name: [then, now]}, "scores": {...}}``.

    Raises:
        DataError: no card there, or a file that has changed since.
    """
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    card, then = content.get("card"), content.get("scores")
    inputs = card_inputs(path, card)
    assert isinstance(card, dict)
    if card["form"] not in FORMS or not isinstance(then, dict):
        raise DataError(f"{path}: a card of form {card['form']!r} without scores; there is nothing to repeat")
    if card.get("compare"):
        first, second = (
            {name.partition(".")[2]: value for name, value in inputs.items() if name.startswith(f"{side}.")}
            for side in _SIDES
        )
        now = _compare(card["form"], first, second, "")["scores"]
    else:
        now = dict(_evaluate(card["form"], inputs).scores)
    names = sorted({*now, *then})
    different = {name: [then.get(name), now.get(name)] for name in names if then.get(name) != now.get(name)}
    return {"equal": not different, "different": different, "scores": now}
