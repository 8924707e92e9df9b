"""METEOR and SPICE: programs in Java that pycocoevalcap brings; scored where both are there."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "pycocoevalcap"
METRICS = ("METEOR", "SPICE")


def score(
    metric: str, images: Sequence[str], lines: Sequence[str], groups: Sequence[Sequence[str]]
) -> tuple[float | None, str]:
    """The score, or ``None`` and why it cannot be had.

    Args:
        metric: one of :data:`METRICS`.
        images: ids.
        lines: the candidate of each, as PTB's words joined by spaces.
        groups: the references of each.
    """
    reason = lacking(metric)
    if reason:
        return None, reason
    module = importlib.import_module(f"{PACKAGE}.{metric.lower()}.{metric.lower()}")
    truth = {image: list(group) for image, group in zip(images, groups, strict=True)}
    said = {image: [line] for image, line in zip(images, lines, strict=True)}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            value, _ = getattr(module, metric.capitalize())().compute_score(truth, said)
    except Exception as error:  # whatever ends the Java program; the other scores stand
        return None, f"{metric} failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return float(value), ""


def lacking(metric: str) -> str:
    """Why a metric cannot be had here, or nothing."""
    if shutil.which("java") is None:
        return f"{metric} needs Java, which is not installed"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return f"{metric} needs {PACKAGE}; pip install {PACKAGE}==1.2"
    library = Path(spec.submodule_search_locations[0]) / "spice" / "lib"
    if metric == "SPICE" and not (library / "stanford-corenlp-3.6.0-models.jar").is_file():
        return f"SPICE needs the Stanford models; python -m {PACKAGE}.spice.get_stanford_models fetches them"
    return ""
