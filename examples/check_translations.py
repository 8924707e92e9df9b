"""Check English-Chinese pairs for wrong numbers, swaps, names, missing ends and repeats, without a model.

python examples/check_translations.py pairs.tsv    # one pair per line: English, tab, Chinese
"""

import csv
import sys
from pathlib import Path

from ziya_visual.forge.checks.any_pair import check


def main(path: str) -> None:
    with Path(path).open(encoding="utf-8", newline="") as file:
        pairs = list(csv.reader(file, delimiter="\t"))
    for source, target in pairs:
        reasons = check(source, target, source_lang="en", target_lang="zh")
        print(f"{', '.join(reasons) or 'ok'}\t{source}\t{target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
