"""Score the captions of any system by the rules of coco-caption, with intervals and without Java.

python examples/score_file.py references.jsonl predictions.json zh

``references.jsonl``: {"image_id": 1, "references": ["...", "..."]} per line, or COCO annotations;
``predictions.json``: [{"image_id": 1, "caption": "..."}, ...], as the COCO server accepts them.
"""

import sys
from pathlib import Path

from ziya_visual.eval.score import compute


def main(references: str, predictions: str, lang: str = "en") -> None:
    result = compute("caption", references=Path(references), predictions=Path(predictions), lang=lang)
    intervals = result["card"]["intervals"]
    for name, value in result["scores"].items():
        low, high = intervals.get(name, (value, value))
        print(f"{name:16s} {value:.4f}  [{low:.4f}, {high:.4f}]")
    print("counted against it:", result["failures"] or "nothing")


if __name__ == "__main__":
    main(*sys.argv[1:])
