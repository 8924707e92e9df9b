"""Talk about a picture. Each question is asked with the dialogue so far.

python examples/chat.py runs/quickstart/checkpoint picture.png "What is in the picture?" "图片里有什么？"
"""

import sys

from ziya_visual import ZiyaVisual
from ziya_visual.core.records import Message


def main(checkpoint: str, picture: str, *questions: str) -> None:
    model, dialogue = ZiyaVisual.from_pretrained(checkpoint), []
    for question in questions:
        dialogue.append(Message("user", question))
        answer = model.chat_about(picture, dialogue)
        dialogue.append(Message("assistant", answer))
        print(f"{question}\n  {answer}")


if __name__ == "__main__":
    main(*sys.argv[1:])
