"""Print an answer as it is generated. Each piece holds whole characters, in Chinese too.

python examples/stream.py runs/quickstart/checkpoint picture.png "描述图片。"
"""

import sys

from ziya_visual import ZiyaVisual
from ziya_visual.core.records import Message


def main(checkpoint: str, picture: str, question: str) -> None:
    model = ZiyaVisual.from_pretrained(checkpoint)
    for piece in model.stream(picture, [Message("user", question)]):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
