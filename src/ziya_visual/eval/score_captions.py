"""``score caption`` and ``score translation``: texts against references."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.io import read_json, read_jsonl, read_text
from ziya_visual.eval.metrics import caption, segment
from ziya_visual.eval.score_files import Scored, by_id, match_ids, need, read_object, read_rows, text_of


def score_caption(
    *,
    references: Path,
    predictions: Path,
    lang: str = "en",
    segmenter: str | None = None,
    duplicates: str = "refuse",
) -> Scored:
    """Bleu, ROUGE_L, CIDEr and, with Java, METEOR, over the images that have a prediction."""
    cuts = segment.choose(lang, segmenter)
    failures: Counter[str] = Counter()
    truths = read_references(references)
    said = by_id(read_rows(predictions), "image_id", predictions, duplicates=duplicates, failures=failures)
    images = [image for image in match_ids(truths, said, predictions, failures) if image in said]
    candidates = [text_of(said[image], "caption", predictions) for image in images]
    groups = [truths[image] for image in images]
    failures["empty"] += sum(not text.strip() for text in candidates)
    scored = Scored({}, rule=",".join(name for name, _ in cuts))
    for name, suffix in cuts:
        if name == "ptb":
            segment.refuse_chinese([text for group in groups for text in group], str(references))
            segment.refuse_chinese(candidates, str(predictions))
        _score_cut(scored, images, candidates, groups, name, suffix)
    scored.failures = +failures
    return scored


def _score_cut(
    scored: Scored, images: list[str], candidates: list[str], groups: list[list[str]], name: str, suffix: str
) -> None:
    """Add the scores of one segmenter."""
    # A line break inside a caption is a space to the official tool.
    lines = segment.segment([text.replace("\n", " ") for text in candidates], name)
    flat = iter(segment.segment([text.replace("\n", " ") for group in groups for text in group], name))
    cut = [[next(flat) for _ in group] for group in groups]
    counted = caption.prepare(lines, cut)
    for order, value in enumerate(caption.bleu(counted), start=1):
        scored.scores[f"Bleu_{order}{suffix}"] = value
    for metric, values in (("ROUGE_L", caption.rouge_l(lines, cut)), ("CIDEr", caption.cider(counted))):
        scored.scores[f"{metric}{suffix}"] = float(values.mean())
        scored.items[f"{metric}{suffix}"] = dict(zip(images, map(float, values), strict=True))
    meteor, reason = (
        _meteor(images, lines, cut) if name == "ptb" else (None, "METEOR's word lists are English")
    )
    if meteor is None:
        scored.not_computed[f"METEOR{suffix}"] = reason
    else:
        scored.scores[f"METEOR{suffix}"] = meteor
    scored.not_computed[f"SPICE{suffix}"] = "SPICE needs the Stanford models, which are not installed"


def _meteor(images: list[str], lines: list[str], groups: list[list[str]]) -> tuple[float | None, str]:
    """METEOR through pycocoevalcap's Java program; (None, why) where it cannot run."""
    if shutil.which("java") is None:
        return None, "METEOR needs Java, which is not installed"
    if importlib.util.find_spec("pycocoevalcap") is None:
        return None, "METEOR needs pycocoevalcap; pip install pycocoevalcap"
    with contextlib.redirect_stdout(io.StringIO()):
        meteor = importlib.import_module("pycocoevalcap.meteor.meteor").Meteor()
        score, _ = meteor.compute_score(
            dict(zip(images, groups, strict=True)),
            {image: [line] for image, line in zip(images, lines, strict=True)},
        )
    return float(score), ""


def read_references(path: Path) -> dict[str, list[str]]:
    """Reference captions by image id: COCO annotations, or JSONL with ``image_id`` and ``references``.

    Raises:
        DataError: another form, or an image without references.
    """
    found: dict[str, list[str]] = {}
    if _is_coco(path):
        for row in read_object(path, "annotations"):
            found.setdefault(str(need(row, "image_id", path)), []).append(text_of(row, "caption", path))
        return found
    for number, row in read_jsonl(path):
        texts = row.get("references") if isinstance(row, dict) else None
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: line {number} has no list of texts 'references'")
        image = str(need(row, "image_id", path))
        if image in found:
            raise DataError(f"{path}: line {number}: image_id {image} stands there twice")
        found[image] = texts
    if not found:
        raise DataError(f"{path}: holds no references")
    return found


def _is_coco(path: Path) -> bool:
    """Whether the file as a whole is a JSON object without ``references`` of its own."""
    if path.suffix == ".jsonl":
        return False
    first = read_text(path).lstrip().split("\n", 1)[0]
    try:
        row: Any = json.loads(first)
    except json.JSONDecodeError:
        read_json(path)  # an object over several lines, or the error that says where it breaks
        return True
    return not (isinstance(row, dict) and "references" in row)


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

    truth, said = (read_text(path).rstrip("\n").split("\n") for path in (references, predictions))
    if len(truth) != len(said):
        raise DataError(f"{predictions}: {len(said)} lines against {len(truth)} in {references}")
    scored = Scored({}, Counter({"empty": sum(not line.strip() for line in said)}))
    metrics = {"BLEU": BLEU(tokenize="zh" if lang.split("-")[0] == "zh" else "13a"), "chrF": CHRF()}
    for name, metric in metrics.items():
        scored.scores[name] = float(metric.corpus_score(said, [truth]).score)
        scored.notes[f"signature_{name}"] = str(metric.get_signature())
    scored.failures = +scored.failures
    return scored
