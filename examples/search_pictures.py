"""Find pictures of a folder by what they show, in either language; what did not change is not embedded again.

python examples/search_pictures.py runs/quickstart/checkpoint my-pictures "a red ring" 红色的圆环
"""

import sys
from pathlib import Path

from ziya_visual.serve.search import find, index_folder


def main(checkpoint: str, folder: str, *texts: str) -> None:
    made = index_folder(Path(folder), Path(checkpoint))
    print(f"{len(made.names)} pictures")
    for text in texts:
        print(text)
        for found in find(text, Path(folder), Path(checkpoint), count=3):
            print(f"  {found.score:.3f} {found.path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
