"""Ask many questions about one picture in one batch, which encodes it once and shares its prefix.

python examples/many_questions.py runs/quickstart/checkpoint picture.png "What is it?" "有几个物体？"
"""

import sys

from ziya_visual import ZiyaVisual
from ziya_visual.core.records import Example, ImageRef, Message


def main(checkpoint: str, picture: str, *questions: str) -> None:
    model, image = ZiyaVisual.from_pretrained(checkpoint), ImageRef(path=picture)
    examples = [
        Example(str(number), "und", "vqa", (Message("user", question),), image, picture)
        for number, question in enumerate(questions)
    ]
    for question, answer in zip(questions, model.answer(examples, max_new_tokens=32), strict=True):
        print(f"{question}\n  {answer}")
    print(f"{len(questions)} questions, pictures encoded: {model.images_encoded}")


if __name__ == "__main__":
    main(*sys.argv[1:])
