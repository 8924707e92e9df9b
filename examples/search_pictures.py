"""Search the pictures of a folder by text, in either language. Unchanged pictures are embedded once.

python examples/search_pictures.py runs/quickstart/checkpoint my-pictures "a red ring" 红色的圆环
"""

import sys
from pathlib import Path

from ziya_visual.serve.search import find, index_folder


def main(checkpoint: str, folder: str, *texts: str) -> None:
    index = index_folder(Path(folder), Path(checkpoint))
    print(f"{len(index.names)} pictures")
    for text in texts:
        print(text)
        for match in find(text, Path(folder), Path(checkpoint), count=3):
            print(f"  {match.score:.3f} {match.path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
