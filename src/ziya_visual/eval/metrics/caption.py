"""Bleu, ROUGE-L and CIDEr-D exactly as coco-caption computes them, in numpy, over tokenized captions.

Source: pycocoevalcap 1.2 (github.com/salaniz/pycocoevalcap). We keep its quirks because they are part of the
numbers: CIDEr's length penalty counts bigrams, document frequencies come from the references of the scored
images, Bleu uses the closest reference length, and ROUGE-L takes best precision and best recall separately.
METEOR and SPICE call its Java programs where they are installed.

A caption is a string of tokens joined by single spaces (:mod:`ziya_visual.eval.metrics.tokenization`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ORDERS = 4
SIGMA = 6.0
BETA = 1.2
JAVA_PACKAGE = "pycocoevalcap"
JAVA_METRICS = ("METEOR", "SPICE")


@dataclass(frozen=True)
class NGrams:
    """The n-grams of one order in all captions: int64[E], one entry for each (caption, n-gram).

    Captions and n-grams have dense numbers; captions 0 to N-1 are the candidates, the references follow.
    """

    caption: Ints
    gram: Ints
    count: Ints


@dataclass(frozen=True)
class Captions:
    """Candidates, then references, of N ``images``, ready for every metric.

    ``image`` and ``length`` int64[N + R] are each caption's image and number of tokens; ``orders`` holds the
    n-grams of order 1 to 4.
    """

    image: Ints
    length: Ints
    orders: list[NGrams]
    images: int


def prepare(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    """Count the n-grams of one candidate and several references per image."""
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
        # An n-gram starts where an (n-1)-gram starts, provided its last token is in the same caption.
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
    """Return corpus Bleu_1 to Bleu_4 with the closest reference length."""
    return [float(score) for score in bleu_of_sums(bleu_counts(captions).sum(axis=0)[None])[0]]


def bleu_counts(captions: Captions) -> Floats:
    """Return each image's Bleu counts: matches and n-grams by order, length, reference length: [N, 10]."""
    lengths = captions.length[: captions.images]
    correct = [_clipped_matches(captions, grams) for grams in captions.orders]
    guesses = [np.maximum(0, lengths - order) for order in range(ORDERS)]
    return np.stack([*correct, *guesses, lengths, _closest_lengths(captions)], axis=1).astype(np.float64)


def bleu_of_sums(sums: Floats) -> Floats:
    """Compute Bleu_1 to Bleu_4 from summed :func:`bleu_counts`: float64[R, 10] -> float64[R, 4]."""
    small, tiny = 1e-9, 1e-15
    precisions = (sums[:, :ORDERS] + tiny) / (sums[:, ORDERS : 2 * ORDERS] + small)
    scores = np.cumprod(precisions, axis=1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (sums[:, [-2]] + tiny) / (sums[:, [-1]] + small)
    penalized: Floats = scores * np.exp(np.minimum(0, 1 - 1 / ratio))
    return penalized


def _closest_lengths(captions: Captions) -> Ints:
    """Return the reference length closest to each candidate's, the shorter on a tie: int64[N]."""
    image = captions.image[captions.images :]
    length = captions.length[captions.images :]
    distance = np.abs(length - captions.length[image])
    order = np.lexsort((length, distance, image))
    first = np.unique(image[order], return_index=True)[1]
    closest: Ints = length[order][first]
    return closest


def _clipped_matches(captions: Captions, grams: NGrams) -> Ints:
    """Count each candidate's n-grams, clipped by their highest count in any reference: int64[N]."""
    size = int(grams.gram.max()) + 1 if len(grams.gram) else 1
    key = captions.image[grams.caption] * size + grams.gram
    mine = grams.caption < captions.images
    keys, slot = np.unique(key[~mine], return_inverse=True)
    best = np.zeros(len(keys), np.int64)
    np.maximum.at(best, slot, grams.count[~mine])
    present, where = _look_up(keys, key[mine])
    matches = np.minimum(grams.count[mine][present], best[where])
    counts = np.bincount(grams.caption[mine][present], matches, minlength=captions.images)
    return counts.astype(np.int64)


def _look_up(keys: Ints, wanted: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Return a mask of the ``wanted`` values present in the sorted ``keys``, and the positions of those."""
    if not len(keys):
        return np.zeros(len(wanted), bool), np.zeros(0, np.int64)
    where = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    present = keys[where] == wanted
    return present, where[present]


def cider(captions: Captions) -> Floats:
    """Return CIDEr-D of each image, float64[N]; the corpus score is the mean.

    Term frequencies are raw counts and document frequencies are over the images' references. The score is the
    clipped cosine similarity for each n-gram order, times a Gaussian length penalty (sigma 6), times 10.
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
    """Return the clipped tf-idf cosine of each reference with its candidate for one order: float64[R]."""
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
    present, where = _look_up(key[mine], key[~mine])
    reference, shared = grams.caption[~mine][present], weight[~mine][present]
    product = np.minimum(weight[mine][where], shared) * shared
    value = np.asarray(np.bincount(reference, product, minlength=count)[images:], np.float64)
    scale = norm[images:] * norm[captions.image[images:]]
    cosine: Floats = np.divide(value, scale, out=value.copy(), where=scale != 0)
    return cosine


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """Return ROUGE-L (F with beta 1.2) of each image, float64[N]; the corpus score is the mean."""
    scores = np.zeros(len(candidates))
    for index, (candidate, group) in enumerate(zip(candidates, references, strict=True)):
        tokens = candidate.split(" ")
        positions: dict[str, int] = {}  # token -> bit mask
        for position, token in enumerate(tokens):
            positions[token] = positions.get(token, 0) | 1 << position
        precision = recall = 0.0
        for reference in group:
            other = reference.split(" ")
            common = _lcs_length(positions, len(tokens), other)
            precision, recall = max(precision, common / len(tokens)), max(recall, common / len(other))
        if precision and recall:
            scores[index] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def _lcs_length(positions: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, bit-parallel (Crochemore et al. 2001)."""
    full = (1 << length) - 1
    row = full  # each zero bit is one more common token
    for token in other:
        match = row & positions.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return length - row.bit_count()


def keyword_f1(
    candidates: Iterable[str], references: Iterable[Sequence[str]], extract: Callable[[str], Sequence[str]]
) -> Floats:
    """Return the keyword F1 of each caption with its best reference, as multisets: float64[N], 0 to 1.

    Args:
        candidates: captions as the model wrote them.
        references: the reference captions of each.
        extract: returns the keywords of a text, e.g. ``lambda text: scenes.parsing.keywords(text, "zh")``.
    """
    scores = []
    for candidate, group in zip(candidates, references, strict=True):
        keywords = Counter(extract(candidate))
        scores.append(max(_f1(keywords, Counter(extract(reference))) for reference in group))
    return np.array(scores)


def _f1(predicted: Counter[str], reference: Counter[str]) -> float:
    total = predicted.total() + reference.total()
    return 2 * (predicted & reference).total() / total if total else 1.0


def score_with_java(
    metric: str, images: Sequence[str], candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float | None, str]:
    """Return METEOR or SPICE of PTB-tokenized captions, or ``None`` and the reason why Java cannot tell."""
    reason = java_requirement(metric)
    if reason:
        return None, reason
    module = importlib.import_module(f"{JAVA_PACKAGE}.{metric.lower()}.{metric.lower()}")
    truth = {image: list(group) for image, group in zip(images, references, strict=True)}
    predictions = {image: [line] for image, line in zip(images, candidates, strict=True)}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            value, _ = getattr(module, metric.capitalize())().compute_score(truth, predictions)
    except Exception as error:  # any failure of the Java program; the other scores remain valid
        return None, f"{metric} failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return float(value), ""


def java_requirement(metric: str) -> str:
    """Return what is missing to compute a Java metric here, or an empty string."""
    if shutil.which("java") is None:
        return f"{metric} needs Java, which is not installed"
    spec = importlib.util.find_spec(JAVA_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return f"{metric} needs {JAVA_PACKAGE}; pip install {JAVA_PACKAGE}==1.2"
    library = Path(spec.submodule_search_locations[0]) / "spice" / "lib"
    if metric == "SPICE" and not (library / "stanford-corenlp-3.6.0-models.jar").is_file():
        return f"SPICE needs the Stanford models; run python -m {JAVA_PACKAGE}.spice.get_stanford_models"
    return ""
