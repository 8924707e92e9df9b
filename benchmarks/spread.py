"""The numbers that a benchmark reports of its rounds."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, minimum and maximum, in the shape that every report uses."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
