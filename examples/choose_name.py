"""Classify pictures by choosing among the names of a suite, with the retrieval embeddings.

python examples/choose_name.py runs/finetune/folder runs/emoji/suite.jsonl
"""

import sys
from pathlib import Path

import numpy as np

from ziya_visual.eval.retrieval import similarity
from ziya_visual.eval.suites import load_suite
from ziya_visual.infer.engine import ZiyaVisual


def main(checkpoint: str, suite: str) -> None:
    model, questions = ZiyaVisual.from_pretrained(checkpoint), load_suite(Path(suite))
    for (split, lang), section in questions.sections.items():
        names = sorted({example.answers[0] for example in section.vqa})
        truth = np.array([names.index(example.answers[0]) for example in section.vqa])
        images = [questions.images[str(example.image_id)] for example in section.vqa]
        scores = similarity(model.embed_images(images), model.embed_texts(names))
        right = 100 * np.mean(scores.argmax(1) == truth)
        print(f"{split} {lang}: {right:.1f} % of {len(truth)} pictures, {len(names)} names to choose from")


if __name__ == "__main__":
    main(*sys.argv[1:])
