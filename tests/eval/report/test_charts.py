from __future__ import annotations

import re

from ziya_visual.eval.report.page import line_chart, thin, ticks


def test_ticks_are_round_and_span() -> None:
    assert ticks([0.1, 3.7]) == [0, 1, 2, 3, 4]
    assert ticks([5.0, 5.0])[0] <= 5 <= ticks([5.0, 5.0])[-1]
    assert ticks([0, 1437]) == [0, 500, 1000, 1500]


def test_no_two_lines_of_a_chart_look_alike() -> None:
    svg = line_chart({str(n): [(0, 1.0), (1, float(n))] for n in range(8)}, label="eight")
    looks = re.findall(r'class="(line line[^"]*)"', svg)
    assert len(looks) == len(set(looks)) == 8


def test_charts_survive_odd_lines() -> None:
    assert line_chart({"x": [(0, float("nan"))]}, label="x") == ""
    svg = line_chart({"<a>": [(0, 1.0)]}, label="one point")
    assert "&lt;a&gt;" in svg
    assert len(thin([(float(i), 1.0) for i in range(10_000)])) <= 240
