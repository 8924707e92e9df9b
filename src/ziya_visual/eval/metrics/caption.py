"""Bleu, ROUGE-L and CIDEr-D as coco-caption computes them, in numpy, over tokenised captions.

Source: pycocoevalcap 1.2 (github.com/salaniz/pycocoevalcap). Its habits are part of the numbers and kept:
CIDEr's length penalty counts bigrams, document frequencies come from the references of the images scored,
Bleu's reference length is the closest one, ROUGE-L takes the best precision and the best recall separately.

A caption here is a string of tokens joined by single spaces (:mod:`ziya_visual.eval.metrics.ptb`,
:mod:`ziya_visual.eval.metrics.segment`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ORDERS = 4
SIGMA = 6.0
BETA = 1.2


@dataclass(frozen=True)
class NGrams:
    """The n-grams of one order in all captions, one entry per (caption, n-gram).

    Attributes:
        caption: int64[E], which caption; candidates are 0..N-1, the references follow.
        gram: int64[E], dense identity of the n-gram.
        count: int64[E], how often it stands in the caption.
    """

    caption: Ints
    gram: Ints
    count: Ints


@dataclass(frozen=True)
class Captions:
    """Candidates and references of N images, ready for every metric.

    Attributes:
        image: int64[N + R], the image of every caption: candidates first, then all references.
        length: int64[N + R], tokens of every caption.
        orders: the n-grams of order 1 to 4.
        images: N.
    """

    image: Ints
    length: Ints
    orders: list[NGrams]
    images: int


def prepare(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    """Count the n-grams of one candidate and several references an image."""
    assert len(candidates) == len(references) and all(references)
    owners = list(range(len(candidates)))
    texts = list(candidates)
    for index, group in enumerate(references):
        texts += group
        owners += [index] * len(group)
    words = [text.split() for text in texts]
    length = np.array([len(tokens) for tokens in words], np.int64)
    vocabulary: dict[str, int] = {}
    flat = np.array([vocabulary.setdefault(w, len(vocabulary)) for tokens in words for w in tokens], np.int64)
    caption = np.repeat(np.arange(len(texts)), length)
    orders = [_entries(caption, flat)]
    gram, start = flat, np.arange(len(flat))
    for order in range(2, ORDERS + 1):
        # An n-gram starts where the (n-1)-gram starts, if its last token is still in the caption.
        fits = start + order - 1 < len(flat)
        gram, start = gram[fits], start[fits]
        fits = caption[start + order - 1] == caption[start]
        gram, start = gram[fits], start[fits]
        pairs = gram * len(vocabulary) + flat[start + order - 1]
        gram = np.unique(pairs, return_inverse=True)[1]
        orders.append(_entries(caption[start], gram))
    return Captions(np.array(owners, np.int64), length, orders, len(candidates))


def _entries(caption: Ints, gram: Ints) -> NGrams:
    size = int(gram.max()) + 1 if len(gram) else 1
    keys, count = np.unique(caption * size + gram, return_counts=True)
    return NGrams(keys // size, keys % size, count)


def bleu(captions: Captions) -> list[float]:
    """Corpus Bleu_1 to Bleu_4 with the closest reference length."""
    return [float(score) for score in bleu_of_sums(bleu_counts(captions).sum(axis=0)[None])[0]]


def bleu_counts(captions: Captions) -> Floats:
    """What an image adds to Bleu: right n-grams, n-grams (by order), its length, the reference's: [N, 10]."""
    lengths = captions.length[: captions.images]
    correct = [_clipped_matches(captions, grams) for grams in captions.orders]
    guesses = [np.maximum(0, lengths - order) for order in range(ORDERS)]
    return np.stack([*correct, *guesses, lengths, _closest_lengths(captions)], axis=1).astype(np.float64)


def bleu_of_sums(sums: Floats) -> Floats:
    """Bleu_1 to Bleu_4 of summed :func:`bleu_counts`: float64[R, 10] -> float64[R, 4]."""
    small, tiny = 1e-9, 1e-15
    precisions = (sums[:, :ORDERS] + tiny) / (sums[:, ORDERS : 2 * ORDERS] + small)
    scores = np.cumprod(precisions, axis=1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (sums[:, [-2]] + tiny) / (sums[:, [-1]] + small)
    shortened: Floats = scores * np.exp(np.minimum(0, 1 - 1 / ratio))
    return shortened


def _closest_lengths(captions: Captions) -> Ints:
    """Of every image the reference length nearest to the candidate's; of two, the shorter: int64[N]."""
    image = captions.image[captions.images :]
    length = captions.length[captions.images :]
    distance = np.abs(length - captions.length[image])
    order = np.lexsort((length, distance, image))
    first = np.unique(image[order], return_index=True)[1]
    closest: Ints = length[order][first]
    return closest


def _clipped_matches(captions: Captions, grams: NGrams) -> Ints:
    """How many n-grams of each candidate are right, at most as often as in its best reference: int64[N]."""
    size = int(grams.gram.max()) + 1 if len(grams.gram) else 1
    key = captions.image[grams.caption] * size + grams.gram
    mine = grams.caption < captions.images
    keys, slot = np.unique(key[~mine], return_inverse=True)
    best = np.zeros(len(keys), np.int64)
    np.maximum.at(best, slot, grams.count[~mine])
    found, where = _look_up(keys, key[mine])
    matches = np.minimum(grams.count[mine][found], best[where])
    counts = np.bincount(grams.caption[mine][found], matches, minlength=captions.images)
    return counts.astype(np.int64)


def _look_up(keys: Ints, wanted: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """(which of ``wanted`` are among the sorted ``keys``, where those stand)."""
    if not len(keys):
        return np.zeros(len(wanted), bool), np.zeros(0, np.int64)
    where = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[where] == wanted
    return found, where[found]


def cider(captions: Captions) -> Floats:
    """CIDEr-D of every image, float64[N]; the corpus score is the mean.

    Term frequencies are counts, document frequencies are over the images' references, clipped cosine
    similarity per n-gram order, a Gaussian penalty (sigma 6) on the difference in length, times 10.
    """
    images = captions.images
    reference_image = captions.image[images:]
    bigrams = np.maximum(0, captions.length - 1)
    delta = (bigrams[:images][reference_image] - bigrams[images:]).astype(np.float64)
    penalty = np.exp(-(delta**2) / (2 * SIGMA**2))
    similarity = sum((_similarity(captions, grams) for grams in captions.orders), np.zeros(len(delta)))
    total = np.bincount(reference_image, similarity * penalty, minlength=images)
    return total / ORDERS / np.bincount(reference_image, minlength=images) * 10.0


def _similarity(captions: Captions, grams: NGrams) -> Floats:
    """Clipped tf-idf cosine of every reference with its image's candidate, one order: float64[R]."""
    images, count = captions.images, len(captions.length)
    if not len(grams.gram):
        return np.zeros(count - images)
    size = int(grams.gram.max()) + 1
    key = captions.image[grams.caption] * size + grams.gram
    mine = grams.caption < images
    frequency = np.bincount(np.unique(key[~mine]) % size, minlength=size)
    idf = np.log(float(images)) - np.log(np.maximum(1.0, frequency))
    weight = grams.count * idf[grams.gram]
    norm = np.sqrt(np.bincount(grams.caption, weight**2, minlength=count))
    found, where = _look_up(key[mine], key[~mine])
    reference, shared = grams.caption[~mine][found], weight[~mine][found]
    product = np.minimum(weight[mine][where], shared) * shared
    value = np.asarray(np.bincount(reference, product, minlength=count)[images:], np.float64)
    scale = norm[images:] * norm[captions.image[images:]]
    cosine: Floats = np.divide(value, scale, out=value.copy(), where=scale != 0)
    return cosine


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """ROUGE-L (F with beta 1.2) of every image, float64[N]; the corpus score is the mean."""
    scores = np.zeros(len(candidates))
    for index, (candidate, group) in enumerate(zip(candidates, references, strict=True)):
        tokens = candidate.split(" ")
        places: dict[str, int] = {}
        for position, token in enumerate(tokens):
            places[token] = places.get(token, 0) | 1 << position
        precision = recall = 0.0
        for reference in group:
            other = reference.split(" ")
            common = _common_length(places, len(tokens), other)
            precision, recall = max(precision, common / len(tokens)), max(recall, common / len(other))
        if precision and recall:
            scores[index] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def _common_length(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """The longest common subsequence, bit-parallel (Crochemore et al. 2001): a zero bit is one more token."""
    full = (1 << length) - 1
    row = full
    for token in other:
        match = row & places.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return length - row.bit_count()


def keyword_f1(
    candidates: Iterable[str], references: Iterable[Sequence[str]], extract: Callable[[str], Sequence[str]]
) -> Floats:
    """F1 between the keywords of a caption and of its best reference, as multisets: float64[N], 0 to 1.

    Args:
        candidates: captions as the model wrote them.
        references: the true captions of each.
        extract: the keywords of a text, e.g. ``lambda text: grammar.keywords(text, "zh")``.
    """
    scores = []
    for candidate, group in zip(candidates, references, strict=True):
        said = Counter(extract(candidate))
        scores.append(max(_f1(said, Counter(extract(reference))) for reference in group))
    return np.array(scores)


def _f1(said: Counter[str], true: Counter[str]) -> float:
    total = said.total() + true.total()
    return 2 * (said & true).total() / total if total else 1.0
