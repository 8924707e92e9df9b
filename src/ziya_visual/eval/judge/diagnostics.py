"""What a table of judged scores hides: how much of a judge's opinion is place, length, habit or chance.

Every control is a number with the count behind it; :func:`warnings` says in words which of them make a
ranking unbelievable. None of them needs the truth; :func:`agreement` compares two judges, and where one of
them is the rule judge it measures the other against the truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ziya_visual.eval.judge.verdicts import PAIRWISE, RUBRIC, RULE, Battle, Review

Floats = npt.NDArray[np.float64]

MIN_AGREEMENT = 75.0  # percent of questions with the same verdict in both orders
MAX_TIES = 90.0  # percent
MAX_LENGTH_CORRELATION = 0.3
_LEAST = 8  # fewer cases than this raise no warning


def controls(reviews: Sequence[Review]) -> dict[str, Any]:
    """The controls of one judge under one protocol; ``None`` stands for what these reviews cannot tell.

    ``verdicts``: how many different scores there are, and ties in percent. ``first_preferred``: how often,
    among verdicts that are no tie, the answer shown first won; both orders are shown equally often, so that
    50 % is fair. ``order_agreement``: questions with the same verdict in both orders. ``self_agreement``: the
    same request asked again gives the same verdict. ``length``: Spearman correlation
    of the score, or the lead in score, with the length, or the lead in length, of the answer.
    """
    read = [review for review in reviews if review.scores is not None]
    found: dict[str, Any] = {"reviews": len(reviews), "failures": len(reviews) - len(read)}
    if not read:
        return found
    graded = read[0].protocol == RUBRIC
    found["verdicts"] = {"different_scores": len({review.scores for review in read}), "n": len(read)}
    if not graded:
        ties = sum(_verdict(review) == 0 for review in read)
        found["verdicts"]["ties"] = 100 * ties / len(read)
        found["first_preferred"] = _first_preferred(read)
        found["order_agreement"] = _same(
            read, lambda r: (*r.asking, *sorted(r.models), r.repeat), swapped=True
        )
    found["self_agreement"] = _same(read, lambda r: (*r.asking, *sorted(r.models), r.swapped), swapped=False)
    found["length"] = _length(read)
    return found


def _verdict(review: Review) -> float:
    """The sign of the lead of the alphabetically first model, or the grade."""
    assert review.scores is not None
    if len(review.scores) == 1:
        return review.scores[0]
    lead = float(np.sign(review.scores[0] - review.scores[1]))
    return lead if review.models[0] <= review.models[1] else -lead


def share(hits: int, n: int) -> dict[str, Any] | None:
    """Percent with Wilson's 95 % interval, which is right also near 0 and 100; ``None`` of nothing."""
    if n == 0:
        return None
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    margin = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    low, high = max(0.0, middle - margin), min(1.0, middle + margin)
    return {"value": 100 * hits / n, "low": 100 * low, "high": 100 * high, "n": n}


def _first_preferred(read: Sequence[Review]) -> dict[str, Any] | None:
    """Only questions shown in both orders count: elsewhere the better model may always stand first."""
    orders: dict[Any, set[bool]] = {}
    for review in read:
        orders.setdefault((*review.asking, *sorted(review.models)), set()).add(review.swapped)
    firsts = []
    for review in read:
        assert review.scores is not None
        if (
            len(orders[(*review.asking, *sorted(review.models))]) == 2
            and review.scores[0] != review.scores[1]
        ):
            firsts.append((review.scores[0] > review.scores[1]) != review.swapped)
    return share(sum(firsts), len(firsts))


def _same(read: Sequence[Review], key: Any, *, swapped: bool) -> dict[str, Any] | None:
    """How often two reviews of one group (two orders, or two repeats) have the same verdict."""
    groups: dict[Any, list[Review]] = {}
    for review in read:
        groups.setdefault(key(review), []).append(review)
    pairs = [
        pair
        for group in groups.values()
        for pair in itertools.combinations(group, 2)
        if (pair[0].swapped != pair[1].swapped) == swapped
    ]
    return share(sum(_verdict(one) == _verdict(other) for one, other in pairs), len(pairs))


def _length(read: Sequence[Review]) -> dict[str, Any] | None:
    """Spearman of score and length; of the leads of the second answer over the first, where there are two."""
    points = []
    for review in read:
        assert review.scores is not None
        if len(review.answers) == len(review.scores):
            logs = [math.log(1 + len(answer)) for answer in review.answers]
            points.append(
                (review.scores[0], logs[0])
                if len(logs) == 1
                else (review.scores[1] - review.scores[0], logs[1] - logs[0])
            )
    if len(points) < 3:
        return None
    scores, lengths = np.array(points).T
    correlation = spearman(scores, lengths)
    return None if correlation is None else {"spearman": correlation, "n": len(points)}


def length_adjusted(reviews: Iterable[Review]) -> float | None:
    """100 x candidate / reference if both were equally long; ``None`` where the lengths cannot tell.

    The lead in score is regressed on the lead in log length; what the mean lead in length is worth is taken
    from the candidate's mean.
    """
    read = [r for r in reviews if r.scores is not None and len(r.answers) == len(r.scores) == 2]
    if len(read) < 3:
        return None
    scores = np.array([review.scores for review in read])
    logs = np.array([[math.log(1 + len(answer)) for answer in review.answers] for review in read])
    lead, longer = scores[:, 1] - scores[:, 0], logs[:, 1] - logs[:, 0]
    spread = float(((longer - longer.mean()) ** 2).sum())
    reference = float(scores[:, 0].mean())
    if not lengths_overlap(longer) or reference == 0:
        return None
    slope = float(((longer - longer.mean()) * (lead - lead.mean())).sum()) / spread
    return round(100 * (float(scores[:, 1].mean()) - slope * float(longer.mean())) / reference, 1)


def lengths_overlap(longer: Floats) -> bool:
    """Whether equal length lies within what was seen: a model that is always longer cannot be adjusted.

    Args:
        longer: float64[N], lead in log length of one model over the other in each battle.
    """
    spread = float(longer.std())
    return spread > 1e-6 and abs(float(longer.mean())) <= 2 * spread


def warnings(found: dict[str, Any], protocol: str) -> list[str]:
    """What in the controls of a judge speaks against its verdicts, in sentences."""
    if protocol == RULE or "verdicts" not in found:
        return []
    said = []
    verdicts = found["verdicts"]
    if verdicts["n"] >= _LEAST and verdicts["different_scores"] == 1:
        said.append(f"It gave the same scores in all of its {verdicts['n']} reviews: it tells nothing apart.")
    elif verdicts["n"] >= _LEAST and verdicts.get("ties", 0) > MAX_TIES:
        said.append(f"{verdicts['ties']:.0f} % of its verdicts are ties: it hardly tells answers apart.")
    first = found.get("first_preferred")
    if first and first["n"] >= _LEAST and not first["low"] <= 50 <= first["high"]:
        place = "first" if first["value"] > 50 else "second"
        often = max(first["value"], 100 - first["value"])
        said.append(
            f"It prefers the answer shown {place} in {often:.0f} % of {first['n']} verdicts; 50 % is fair."
        )
    order = found.get("order_agreement")
    if order and order["n"] >= _LEAST and order["value"] < MIN_AGREEMENT:
        said.append(
            f"In {100 - order['value']:.0f} % of {order['n']} questions its verdict changes with the order"
            " of the answers."
        )
    again = found.get("self_agreement")
    if again and again["n"] >= _LEAST and again["value"] < MIN_AGREEMENT:
        said.append(f"Asked the same again, it says something else in {100 - again['value']:.0f} % of cases.")
    length = found.get("length")
    if length and length["n"] >= _LEAST and abs(length["spearman"]) > MAX_LENGTH_CORRELATION:
        way = "longer" if length["spearman"] > 0 else "shorter"
        said.append(f"It prefers {way} answers: Spearman {length['spearman']:.2f} of score and length.")
    if protocol not in (PAIRWISE, RUBRIC):
        said.append("The order of the answers was never swapped: how much of the scores is place is unknown.")
    return said


def unbelievable(found: dict[str, Any]) -> bool:
    """Whether no ranking can be drawn: one verdict for everything, or the order decides most of them."""
    verdicts, order = found.get("verdicts"), found.get("order_agreement")
    if not verdicts or verdicts["n"] < _LEAST:
        return False
    constant = verdicts["different_scores"] == 1 or verdicts.get("ties", 0) > MAX_TIES
    return constant or bool(order and order["n"] >= _LEAST and order["high"] < 50)


def agreement(first: Sequence[Battle], second: Sequence[Battle]) -> dict[str, Any] | None:
    """How far two judges agree on the battles that both judged; ``None`` where there are none.

    Returns:
        ``n``; ``same`` verdict in percent; Cohen's ``kappa`` over a, b, tie; ``spearman`` of the margins;
        and, with the first judge as the truth: ``found_better``, how often the second names the better answer
        where one is better, and ``false_preference``, how often it prefers one of two equal ones. ``None``
        stands for what is not defined, as the kappa of a judge with one verdict for everything.
    """
    others = {_key(battle): battle for battle in second}
    pairs = [(battle, others[_key(battle)]) for battle in first if _key(battle) in others]
    if not pairs:
        return None
    margins = np.array([[_lead(one), _lead(other)] for one, other in pairs])
    verdicts = np.sign(margins)
    better, equal = verdicts[verdicts[:, 0] != 0], verdicts[verdicts[:, 0] == 0]
    return {
        "n": len(pairs),
        "same": share(int((verdicts[:, 0] == verdicts[:, 1]).sum()), len(pairs)),
        "kappa": kappa(verdicts[:, 0], verdicts[:, 1]),
        "spearman": spearman(margins[:, 0], margins[:, 1]),
        "found_better": share(int((better[:, 0] == better[:, 1]).sum()), len(better)),
        "false_preference": share(int((equal[:, 1] != 0).sum()), len(equal)),
    }


def _key(battle: Battle) -> tuple[str, ...]:
    return battle.lang, battle.question, *sorted((battle.a, battle.b))


def _lead(battle: Battle) -> float:
    return battle.margin if battle.a <= battle.b else -battle.margin


def kappa(first: Floats, second: Floats) -> float | None:
    """Cohen's kappa of two lists of labels; ``None`` if chance alone would agree everywhere."""
    labels = np.unique(np.concatenate([first, second]))
    chance = sum(float((first == label).mean() * (second == label).mean()) for label in labels)
    return None if chance >= 1 else (float((first == second).mean()) - chance) / (1 - chance)


def spearman(first: Floats, second: Floats) -> float | None:
    """Rank correlation, ties at their mean rank; ``None`` if one list is constant or shorter than three."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks
