"""Write records as Parquet with their pictures inside, read them back, and stream them in another order.

python examples/records.py my-pictures runs/records    # a folder of pictures with a captions.csv
"""

import sys
from pathlib import Path

from ziya_visual.core.records import Example
from ziya_visual.data.dataset import from_row, iter_records, stream, write_dataset


def main(pictures: str, out: str) -> None:
    rows = list(iter_records(Path(pictures)))
    examples = [row for row in rows if isinstance(row, Example)]
    written = write_dataset(Path(out), examples, "parquet")
    print(f"{written} records written, {len(rows) - written} rejected")
    for example in map(from_row, stream(Path(out), seed=0)):
        size = len(example.image.bytes) if example.image else 0
        print(f"{example.id}\t{example.lang}\t{example.messages[-1].content}\t{size} bytes of picture")


if __name__ == "__main__":
    main(*sys.argv[1:])
