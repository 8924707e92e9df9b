"""Line charts as inline SVG for light and dark pages, without scripts or a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]

WIDTH, HEIGHT = 420, 220
COLORS = 5
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 30
_MAX_POINTS = 240


def line_chart(series: Mapping[str, Sequence[Point]], *, label: str, x_label: str = "step") -> Markup:
    """Return an SVG with one line for each series (name -> points with increasing x), in the order given.

    Colours are the CSS classes ``line-0`` to ``line-4``, then the same classes dashed (``again``). Screen
    readers read ``label``.
    """
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points:
        return Markup("")
    x_ticks, y_ticks = (ticks([point[axis] for point in points]) for axis in (0, 1))
    elements = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" class="chart">',
        *_grid(x_ticks, y_ticks),
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 2}" class="axis mid">',
        f"{escape(x_label)}</text>",
    ]
    for index, (name, line) in enumerate(series.items()):
        finite = thin([point for point in line if math.isfinite(point[1])])
        path = " ".join(f"{_x(x, x_ticks):.1f},{_y(y, y_ticks):.1f}" for x, y in finite)
        style = f"line line-{index % COLORS}" + " again" * (index >= COLORS)
        elements.append(f'<polyline points="{path}" class="{style}"><title>{escape(name)}</title></polyline>')
    return Markup("".join([*elements, "</svg>"]))


def ticks(values: Sequence[float], *, wanted: int = 4) -> list[float]:
    """Return round numbers that span the values in about ``wanted`` steps.

    >>> ticks([0.1, 3.7])
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / wanted))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= span / wanted * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * i, 10) for i in range(first, last + 1)]


def thin(line: Sequence[Point]) -> list[Point]:
    """Reduce a line to at most 240 points by averaging neighbours; return short lines unchanged."""
    size = math.ceil(len(line) / _MAX_POINTS)
    if size <= 1:
        return list(line)
    groups = [line[start : start + size] for start in range(0, len(line), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    elements = []
    for tick in y_ticks:
        y = _y(tick, y_ticks)
        elements.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        elements.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="axis end">{tick:g}</text>')
    for tick in x_ticks:
        x = _x(tick, x_ticks)
        elements.append(f'<text x="{x:.1f}" y="{HEIGHT - 15}" class="axis mid">{tick:g}</text>')
    return elements


def _x(value: float, scale: Sequence[float]) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT - 8) * (value - scale[0]) / (scale[-1] - scale[0])


def _y(value: float, scale: Sequence[float]) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - scale[0]) / (scale[-1] - scale[0])
