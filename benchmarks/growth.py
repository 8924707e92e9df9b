"""How the speed-up grows with the texts of a picture: runs/bench/train.json -> docs/growth.svg.

python benchmarks/growth.py
"""

from pathlib import Path

from ziya_visual.core.files import read_json, write_text
from ziya_visual.eval.report.page import line_chart

STYLE = """<style>
svg { background: white; font: 11px sans-serif; }
.line { fill: none; stroke-width: 2; } .again { stroke-dasharray: 4 3; } .grid { stroke: #ddd; }
.line-0 { stroke: #1668b8; } .line-1 { stroke: #c2410c; } .line-2 { stroke: #7d7d7d; }
.end { text-anchor: end; } .mid { text-anchor: middle; } .axis { fill: #333; }
</style>"""
NAMES = {"uncached": "measured", "cached": "measured, the ViT's states kept"}


def main() -> None:
    report = read_json(Path("runs/bench/train.json"))
    series = {}
    for kind, name in NAMES.items():
        names = [key for key in report["ratios"] if key.startswith(f"{kind}_k")]
        by_texts = sorted((int(key.rsplit("k", 1)[1]), report["ratios"][key]["median"]) for key in names)
        series[name] = by_texts
    series["predicted by FLOPs"] = [(k, report["predicted"][f"uncached_k{k}"]) for k, _ in series["measured"]]
    chart = line_chart(series, label="speed-up over stock by texts a picture", x_label="texts a picture")
    head, rest = chart.split(">", 1)
    write_text(Path("docs/growth.svg"), f'{head} xmlns="http://www.w3.org/2000/svg">{STYLE}{rest}\n')


if __name__ == "__main__":
    main()
