"""``score caption`` and ``score translation``: texts against references."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import read_text
from ziya_visual.eval.metrics import caption, tokenization
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic
from ziya_visual.eval.score.files import Scored, by_id, match_ids, need, read_rows, read_value, text_of


def score_caption(
    *,
    references: Path,
    predictions: Path,
    lang: str = "en",
    segmenter: str | None = None,
    duplicates: str = "refuse",
) -> Scored:
    """Bleu, ROUGE_L, CIDEr and, with Java, METEOR and SPICE, over the images that have a prediction."""
    cuts = tokenization.choose_segmenters(lang, segmenter)
    failures: Counter[str] = Counter()
    truths = read_references(references)
    said = by_id(read_rows(predictions), "image_id", predictions, failures=failures, duplicates=duplicates)
    images = [image for image in match_ids(truths, said, predictions, failures) if image in said]
    # A line break inside a caption is a space to the official tool.
    candidates = [text_of(said[image], "caption", predictions).replace("\n", " ") for image in images]
    groups = [[text.replace("\n", " ") for text in truths[image]] for image in images]
    failures["empty"] += sum(not text.strip() for text in candidates)
    scored = Scored({}, rule=",".join(name for name, _ in cuts))
    flat = [text for group in groups for text in group]
    for name, suffix in cuts:
        for texts, path in ((flat, references), (candidates, predictions)):
            tokenization.check_texts(texts, name, str(path))
        lines, words = tokenization.tokenize(candidates, name), iter(tokenization.tokenize(flat, name))
        cut = [[next(words) for _ in group] for group in groups]
        _score_cut(scored, images, lines, cut, suffix)
        _score_java(scored, images, lines, cut, suffix)
    if any(name == "jieba" for name, _ in cuts):
        scored.packages.append("jieba")
    scored.failures = +failures
    return scored


def _score_cut(
    scored: Scored, images: list[str], lines: list[str], groups: list[list[str]], suffix: str
) -> None:
    """Add the scores that need no Java, of texts that have been cut."""
    counted = caption.prepare(lines, groups)
    names = [f"Bleu_{order}{suffix}" for order in range(1, caption.ORDERS + 1)]
    scored.scores |= dict(zip(names, caption.bleu(counted), strict=True))
    scored.statistics.append(Statistic(names, images, caption.bleu_counts(counted), caption.bleu_of_sums))
    for metric, values in (("ROUGE_L", caption.rouge_l(lines, groups)), ("CIDEr", caption.cider(counted))):
        scored.scores[f"{metric}{suffix}"] = float(values.mean())
        scored.items[f"{metric}{suffix}"] = dict(zip(images, values.tolist(), strict=True))


def _score_java(
    scored: Scored, images: list[str], lines: list[str], groups: list[list[str]], suffix: str
) -> None:
    """Add METEOR and SPICE where they can run, and say why where not."""
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
    """Reference captions by image id: COCO annotations, or JSONL with ``image_id`` and ``references``.

    Raises:
        DataError: another form, or an image without references.
    """
    value = read_value(path)
    if isinstance(value, Mapping) and "references" not in value:
        return _coco_references(value, path)
    found: dict[str, list[str]] = {}
    for image, row in by_id(read_rows(path), "image_id", path, failures=Counter()).items():
        texts = need(row, "references", path)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: image {image}: 'references' is no filled list of texts")
        found[image] = texts
    return found


def _coco_references(value: Mapping[str, object], path: Path) -> dict[str, list[str]]:
    rows, listed = value.get("annotations"), value.get("images", [])
    if not isinstance(rows, list) or not isinstance(listed, list) or not rows:
        raise DataError(f"{path}: found keys {sorted(value)[:6]}, expected a filled list 'annotations'")
    if not all(isinstance(row, Mapping) for row in (*rows, *listed)):
        raise DataError(f"{path}: 'images' and 'annotations' must be lists of objects")
    # In the order of 'images', as the official tool has it: PTB's cut of a caption may hang on the next.
    found: dict[str, list[str]] = {text_of(row, "id", path): [] for row in listed}
    for row in rows:
        found.setdefault(text_of(row, "image_id", path), []).append(text_of(row, "caption", path))
    return {image: texts for image, texts in found.items() if texts}


def score_translation(*, references: Path, predictions: Path, lang: str = "en") -> Scored:
    """SacreBLEU's BLEU (with its Chinese tokeniser for zh) and chrF of line-aligned text files.

    Raises:
        ConfigError: sacrebleu is not installed.
        DataError: the files differ in length.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        raise ConfigError("score translation needs sacrebleu; pip install sacrebleu==2.6.0")
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    truth, said = _lines(references), _lines(predictions)
    if len(truth) != len(said):
        raise DataError(f"{predictions}: {len(said)} lines against {len(truth)} in {references}")
    tokenizer = "zh" if lang.split("-")[0].lower() == "zh" else "13a"
    scored = Scored({}, +Counter({"empty": sum(not line.strip() for line in said)}), packages=["sacrebleu"])
    scored.rule = f"sacreBLEU, tokeniser {tokenizer}"
    for name, metric in {"BLEU": BLEU(tokenize=tokenizer), "chrF": CHRF()}.items():
        scored.scores[name] = float(metric.corpus_score(said, [truth]).score)
        scored.notes[f"signature_{name}"] = str(metric.get_signature())
    single = BLEU(tokenize=tokenizer, effective_order=True)
    found = [single.sentence_score(line, [true]) for line, true in zip(said, truth, strict=True)]
    rows = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], np.float64)

    def bleu(sums: Floats) -> Floats:
        order = single.max_ngram_order
        scores = [
            BLEU.compute_bleu(
                [int(count) for count in row[:order]],
                [int(count) for count in row[order : 2 * order]],
                int(row[-2]),
                int(row[-1]),
            ).score
            for row in sums
        ]
        return np.array(scores)[:, None]

    scored.statistics.append(Statistic(["BLEU"], [str(i) for i in range(len(said))], rows, bleu))
    return scored


def _lines(path: Path) -> list[str]:
    """The lines of a text file; the last may or may not end in a line break."""
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
