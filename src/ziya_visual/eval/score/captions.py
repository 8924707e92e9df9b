"""Captions and translations scored against references."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import read_jsonl, read_text
from ziya_visual.eval.metrics import caption, tokenization
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic
from ziya_visual.eval.results import Metric, Scope, Scored
from ziya_visual.eval.rows import by_id, match_ids, need, read_rows, read_value, text_of


def measure_captions(
    predictions: Path, scope: Scope, keywords: Callable[[str, str], Sequence[str]] | None
) -> list[Metric]:
    """Return ``cider`` and, given ``keywords``, ``keyword_f1`` in percent of one of our prediction files.

    Captions are cut as ``score caption`` cuts them by default: English by PTB's rules, Chinese by character.
    Intervals resample images.
    """
    rows = [row for _, row in read_jsonl(predictions)]
    texts, references = [row["prediction"] for row in rows], [row["answers"] for row in rows]
    images = [row["image_id"] for row in rows]
    segmenter = tokenization.choose_segmenters(scope.lang, None)[0][0]
    tokenized = [tokenization.tokenize(group, segmenter) for group in references]
    counted = caption.prepare(tokenization.tokenize(texts, segmenter), tokenized)
    metrics = [scope.mean("cider", caption.cider(counted), clusters=images)]
    if keywords is not None:
        f1 = caption.keyword_f1(texts, references, lambda text: keywords(text, scope.lang))
        metrics.append(scope.mean("keyword_f1", 100 * f1, clusters=images))
    return metrics


def score_caption(
    *,
    references: Path,
    predictions: Path,
    lang: str = "en",
    segmenter: str | None = None,
    duplicates: str = "refuse",
) -> Scored:
    """Return Bleu, ROUGE_L, CIDEr and, with Java, METEOR and SPICE, over the images with a prediction."""
    segmenters = tokenization.choose_segmenters(lang, segmenter)
    failures: Counter[str] = Counter()
    truths = read_references(references)
    rows = by_id(read_rows(predictions), "image_id", predictions, failures=failures, duplicates=duplicates)
    images = [image for image in match_ids(truths, rows, predictions, failures) if image in rows]
    # The official tool reads a line break inside a caption as a space.
    candidates = [text_of(rows[image], "caption", predictions).replace("\n", " ") for image in images]
    groups = [[text.replace("\n", " ") for text in truths[image]] for image in images]
    failures["empty"] += sum(not text.strip() for text in candidates)
    scored = Scored({}, rule=",".join(name for name, _ in segmenters))
    flat = [text for group in groups for text in group]
    for name, suffix in segmenters:
        for texts, path in ((flat, references), (candidates, predictions)):
            tokenization.check_texts(texts, name, str(path))
        lines, words = tokenization.tokenize(candidates, name), iter(tokenization.tokenize(flat, name))
        tokenized = [[next(words) for _ in group] for group in groups]
        _add_scores(scored, images, lines, tokenized, suffix)
    if any(name == "jieba" for name, _ in segmenters):
        scored.packages.append("jieba")
    scored.failures = +failures
    return scored


def _add_scores(
    scored: Scored, images: list[str], lines: list[str], groups: list[list[str]], suffix: str
) -> None:
    """Add the metrics of tokenized captions, and the reason why METEOR or SPICE cannot run."""
    counted = caption.prepare(lines, groups)
    names = [f"Bleu_{order}{suffix}" for order in range(1, caption.ORDERS + 1)]
    scored.scores |= dict(zip(names, caption.bleu(counted), strict=True))
    scored.statistics.append(Statistic(names, images, caption.bleu_counts(counted), caption.bleu_of_sums))
    for metric, values in (("ROUGE_L", caption.rouge_l(lines, groups)), ("CIDEr", caption.cider(counted))):
        scored.scores[f"{metric}{suffix}"] = float(values.mean())
        scored.items[f"{metric}{suffix}"] = dict(zip(images, values.tolist(), strict=True))
    for metric in caption.JAVA_METRICS:
        if not suffix:  # English
            value, reason = caption.score_with_java(metric, images, lines, groups)
        else:
            value, reason = None, f"{metric}'s word lists are English"
        if value is None:
            scored.not_computed[f"{metric}{suffix}"] = reason
        else:
            scored.scores[f"{metric}{suffix}"] = value
            scored.packages.append(caption.JAVA_PACKAGE)


def read_references(path: Path) -> dict[str, list[str]]:
    """Return captions by image id, from COCO annotations or rows of ``image_id`` and ``references``."""
    value = read_value(path)
    if isinstance(value, Mapping) and "references" not in value:
        return _coco_references(value, path)
    references: dict[str, list[str]] = {}
    for image, row in by_id(read_rows(path), "image_id", path, failures=Counter()).items():
        texts = need(row, "references", path)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: image {image}: 'references' is not a non-empty list of texts")
        references[image] = texts
    return references


def _coco_references(value: Mapping[str, object], path: Path) -> dict[str, list[str]]:
    rows, listed = value.get("annotations"), value.get("images", [])
    if not isinstance(rows, list) or not isinstance(listed, list) or not rows:
        raise DataError(f"{path}: found keys {sorted(value)[:6]}, expected a non-empty list 'annotations'")
    if not all(isinstance(row, Mapping) for row in (*rows, *listed)):
        raise DataError(f"{path}: 'images' and 'annotations' must be lists of objects")
    # In the order of 'images', as in the official tool: PTB's tokens of a caption can depend on the next one.
    references: dict[str, list[str]] = {text_of(row, "id", path): [] for row in listed}
    for row in rows:
        references.setdefault(text_of(row, "image_id", path), []).append(text_of(row, "caption", path))
    return {image: texts for image, texts in references.items() if texts}


def score_translation(*, references: Path, predictions: Path, lang: str = "en") -> Scored:
    """Return SacreBLEU's BLEU (with its Chinese tokenizer for zh) and chrF of line-aligned text files."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise ConfigError("score translation needs sacrebleu; pip install sacrebleu==2.6.0")
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    truths, texts = _lines(references), _lines(predictions)
    if len(truths) != len(texts):
        raise DataError(f"{predictions}: {len(texts)} lines against {len(truths)} in {references}")
    tokenizer = "zh" if lang.split("-")[0].lower() == "zh" else "13a"
    scored = Scored({}, +Counter({"empty": sum(not line.strip() for line in texts)}), packages=["sacrebleu"])
    scored.rule = f"sacreBLEU, tokeniser {tokenizer}"
    for name, metric in {"BLEU": BLEU(tokenize=tokenizer), "chrF": CHRF()}.items():
        scored.scores[name] = float(metric.corpus_score(texts, [truths]).score)
        scored.notes[f"signature_{name}"] = str(metric.get_signature())
    single = BLEU(tokenize=tokenizer, effective_order=True)
    sentences = [single.sentence_score(text, [truth]) for text, truth in zip(texts, truths, strict=True)]
    rows = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in sentences], np.float64)

    def bleu(sums: Floats) -> Floats:
        order = single.max_ngram_order
        counts: list[list[int]] = sums.astype(np.int64).tolist()
        scores = [BLEU.compute_bleu(row[:order], row[order:-2], row[-2], row[-1]).score for row in counts]
        return np.array(scores)[:, None]

    scored.statistics.append(Statistic(["BLEU"], [str(i) for i in range(len(texts))], rows, bleu))
    return scored


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; the last one may lack its line break."""
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
