"""Controls of a judge: how much of its verdicts is due to position, length, habit or chance.

Each control is a number with its count, and :func:`list_warnings` says which of them make a ranking
unreliable. None of them needs the truth. :func:`compare_judges` compares two judges; if the first is the rule
judge, it measures the other against the truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from ziya_visual.eval.judge.judgments import PAIRWISE, RUBRIC, RULE, Battle, Judgment

Floats = npt.NDArray[np.float64]

MIN_AGREEMENT = 75.0  # percent of questions with the same verdict in both orders
MAX_TIES = 90.0  # percent
MAX_LENGTH_CORRELATION = 0.3
_MIN_CASES = 8  # fewer cases raise no warning


def compute_controls(judgments: Sequence[Judgment]) -> dict[str, Any]:
    """Compute the controls of one judge under one protocol; ``None`` if the judgments cannot tell.

    Returns:
        ``reviews`` and ``failures``: counts. ``verdicts``: number of different scores, and ties in percent.
        ``first_preferred``: how often the answer shown first won, ties aside; 50 % is fair, since both orders
        are shown equally often. ``order_agreement``: questions with the same verdict in both orders.
        ``self_agreement``: repeats of a request with the same verdict. ``length``: Spearman correlation of
        the score (or score lead) with the length (or length lead) of the answer.
    """
    scored = [judgment for judgment in judgments if judgment.scores is not None]
    controls: dict[str, Any] = {"reviews": len(judgments), "failures": len(judgments) - len(scored)}
    if not scored:
        return controls
    controls["verdicts"] = {"different_scores": len({j.scores for j in scored}), "n": len(scored)}
    if scored[0].protocol != RUBRIC:
        controls["verdicts"]["ties"] = 100 * sum(_verdict(j) == 0 for j in scored) / len(scored)
        controls["first_preferred"] = _first_preferred(scored)
        controls["order_agreement"] = _same_verdict(scored, lambda j: (*j.battle_key, j.repeat), swapped=True)
    controls["self_agreement"] = _same_verdict(scored, lambda j: (*j.battle_key, j.swapped), swapped=False)
    controls["length"] = _length_correlation(scored)
    return controls


def _verdict(judgment: Judgment) -> float:
    """Return the sign of the alphabetically first model's lead, or the grade of a rubric."""
    assert judgment.scores is not None
    if len(judgment.scores) == 1:
        return judgment.scores[0]
    lead = float(np.sign(judgment.lead))
    return lead if judgment.models[0] <= judgment.models[1] else -lead


def percent_of(hits: int, n: int) -> dict[str, Any] | None:
    """Return percent with Wilson's 95 % interval, valid near 0 and 100 too; ``None`` if ``n`` is 0."""
    if n == 0:
        return None
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    margin = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    low, high = max(0.0, middle - margin), min(1.0, middle + margin)
    return {"value": 100 * hits / n, "low": 100 * low, "high": 100 * high, "n": n}


def _first_preferred(scored: Sequence[Judgment]) -> dict[str, Any] | None:
    """Count only questions shown in both orders; otherwise the better model may always come first."""
    orders: dict[tuple[str, ...], set[bool]] = {}
    for judgment in scored:
        orders.setdefault(judgment.battle_key, set()).add(judgment.swapped)
    first_won = [
        (judgment.lead > 0) != judgment.swapped
        for judgment in scored
        if len(orders[judgment.battle_key]) == 2 and judgment.lead
    ]
    return percent_of(sum(first_won), len(first_won))


def _same_verdict(
    scored: Sequence[Judgment], key: Callable[[Judgment], tuple[Any, ...]], *, swapped: bool
) -> dict[str, Any] | None:
    """Return how often two judgments of one group (two orders, or two repeats) have the same verdict."""
    groups: dict[tuple[Any, ...], list[Judgment]] = {}
    for judgment in scored:
        groups.setdefault(key(judgment), []).append(judgment)
    same = [
        _verdict(first) == _verdict(second)
        for group in groups.values()
        for first, second in itertools.combinations(group, 2)
        if (first.swapped != second.swapped) == swapped
    ]
    return percent_of(sum(same), len(same))


def _length_correlation(scored: Sequence[Judgment]) -> dict[str, Any] | None:
    points = []
    for judgment in scored:
        if judgment.scores is not None and len(judgment.answers) == len(judgment.scores):
            logs = [math.log(1 + len(answer)) for answer in judgment.answers]
            single = len(logs) == 1
            points.append((judgment.scores[0], logs[0]) if single else (-judgment.lead, logs[1] - logs[0]))
    correlation = spearman(*np.array(points).reshape(-1, 2).T)
    return None if correlation is None else {"spearman": correlation, "n": len(points)}


def length_adjusted_score(judgments: Iterable[Judgment]) -> float | None:
    """Return 100 x candidate / reference as if both were equally long; ``None`` if the lengths cannot tell.

    The candidate's mean loses what its mean lead in log length is worth by a regression of the score lead.
    """
    usable = [j for j in judgments if j.scores is not None and len(j.answers) == len(j.scores) == 2]
    if len(usable) < 3:
        return None
    scores = np.array([judgment.scores for judgment in usable])
    logs = np.array([[math.log(1 + len(answer)) for answer in judgment.answers] for judgment in usable])
    lead, longer = scores[:, 1] - scores[:, 0], logs[:, 1] - logs[:, 0]
    spread = float(((longer - longer.mean()) ** 2).sum())
    reference = float(scores[:, 0].mean())
    if not lengths_overlap(longer) or reference == 0:
        return None
    slope = float(((longer - longer.mean()) * (lead - lead.mean())).sum()) / spread
    return round(100 * (float(scores[:, 1].mean()) - slope * float(longer.mean())) / reference, 1)


def lengths_overlap(longer: Floats) -> bool:
    """Return whether the leads in log length ``longer`` float64[N] cover 0; a model may always be longer."""
    spread = float(longer.std())
    return spread > 1e-6 and abs(float(longer.mean())) <= 2 * spread


def list_warnings(controls: dict[str, Any], protocol: str) -> list[str]:
    """Return sentences about the controls that count against a judge's verdicts."""
    if protocol == RULE or "verdicts" not in controls:
        return []
    warnings = []
    verdicts = controls["verdicts"]
    if verdicts["n"] >= _MIN_CASES and verdicts["different_scores"] == 1:
        warnings.append(f"It gave the same scores in all of its {verdicts['n']} reviews.")
    elif verdicts["n"] >= _MIN_CASES and verdicts.get("ties", 0) > MAX_TIES:
        warnings.append(f"{verdicts['ties']:.0f} % of its verdicts are ties; it hardly tells answers apart.")
    first, order, again, length = (
        control if control and control["n"] >= _MIN_CASES else None
        for control in map(controls.get, ("first_preferred", "order_agreement", "self_agreement", "length"))
    )
    if first and not first["low"] <= 50 <= first["high"]:
        place = "first" if first["value"] > 50 else "second"
        percent = max(first["value"], 100 - first["value"])
        warnings.append(
            f"It prefers the answer shown {place} in {percent:.0f} % of {first['n']} verdicts; 50 % is fair."
        )
    if order and order["value"] < MIN_AGREEMENT:
        percent = 100 - order["value"]
        warnings.append(f"Its verdict changes with the order in {percent:.0f} % of {order['n']} questions.")
    if again and again["value"] < MIN_AGREEMENT:
        warnings.append(f"Its verdict changes in {100 - again['value']:.0f} % of repeated requests.")
    if length and abs(length["spearman"]) > MAX_LENGTH_CORRELATION:
        way = "longer" if length["spearman"] > 0 else "shorter"
        warnings.append(f"It prefers {way} answers: Spearman {length['spearman']:.2f} of score and length.")
    if protocol not in (PAIRWISE, RUBRIC):
        warnings.append("The order of the answers was never swapped, so the effect of position is unknown.")
    return warnings


def is_unreliable(controls: dict[str, Any]) -> bool:
    """Return whether no ranking can be drawn: one verdict for all, or the order decides most of them."""
    verdicts, order = controls.get("verdicts"), controls.get("order_agreement")
    if not verdicts or verdicts["n"] < _MIN_CASES:
        return False
    constant = verdicts["different_scores"] == 1 or verdicts.get("ties", 0) > MAX_TIES
    return constant or bool(order and order["n"] >= _MIN_CASES and order["high"] < 50)


def compare_judges(first: Sequence[Battle], second: Sequence[Battle]) -> dict[str, Any] | None:
    """Return how far two judges agree on the battles that both judged, or ``None`` if there are none.

    Returns:
        ``n``; percent of the ``same`` verdict; Cohen's ``kappa`` over a, b and tie; ``spearman`` of the
        margins. With the first judge as the truth, ``found_better`` is how often the second names the better
        of two unequal answers, and ``false_preference`` how often it prefers one of two equal ones. Undefined
        values are ``None``, for example the kappa of a judge with a single verdict.
    """

    def lead(battle: Battle) -> float:
        return battle.margin if battle.a <= battle.b else -battle.margin

    def key(battle: Battle) -> tuple[str, ...]:
        return battle.lang, battle.question_id, *sorted((battle.a, battle.b))

    others = {key(battle): lead(battle) for battle in second}
    margins = np.array([(lead(battle), others[key(battle)]) for battle in first if key(battle) in others])
    if not len(margins):
        return None
    verdicts = np.sign(margins)
    better, equal = verdicts[verdicts[:, 0] != 0], verdicts[verdicts[:, 0] == 0]
    return {
        "n": len(margins),
        "same": percent_of(int((verdicts[:, 0] == verdicts[:, 1]).sum()), len(margins)),
        "kappa": kappa(verdicts[:, 0], verdicts[:, 1]),
        "spearman": spearman(margins[:, 0], margins[:, 1]),
        "found_better": percent_of(int((better[:, 0] == better[:, 1]).sum()), len(better)),
        "false_preference": percent_of(int((equal[:, 1] != 0).sum()), len(equal)),
    }


def kappa(first: Floats, second: Floats) -> float | None:
    """Return Cohen's kappa of two lists of labels, or ``None`` if chance alone would always agree."""
    labels = np.unique(np.concatenate([first, second]))
    chance = sum(float((first == label).mean() * (second == label).mean()) for label in labels)
    return None if chance >= 1 else (float((first == second).mean()) - chance) / (1 - chance)


def spearman(first: Floats, second: Floats) -> float | None:
    """Return the rank correlation, or ``None`` for constant lists and those shorter than three."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
