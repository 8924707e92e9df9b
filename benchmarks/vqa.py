"""Questions about pictures: ours beside stock ``generate``, for ``benchmarks/eval.py``.

The network of ``make bench-train`` with random weights in float32, 8 questions of 8 to 16 tokens about each
of 16 pictures, greedy answers of fixed lengths. Ours encodes a picture once and decodes its questions behind
one prefix; stock gets a row a question, padded on the left, in the batch that was fastest in a trial.

One thread, and the seconds are those of its processor: other work on the machine counts less.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from train_setting import BOS, IMAGE_ID, PAD, QUERIES, draw_image_texts, models

from ziya_visual.data.packing import pad
from ziya_visual.infer.decoder import Prompt, compute_prefixes, generate
from ziya_visual.model.packed.attention import INFERENCE

PICTURES, QUESTIONS = 16, 8
LENGTHS = (3, 8, 16)  # new tokens; `vqa_k8` is of the first: a word, or two, and the end
BATCHES = (16, 64)


class Setting:
    """Both models, the pictures and the token ids of their questions."""

    def __init__(self) -> None:
        self.ours, self.stock = models()
        self.ours.eval()
        self.ours.set_attn_implementation(INFERENCE)  # as the engine opens it
        self.stock.eval()
        self.stock.generation_config.eos_token_id = None  # every answer has its full length
        self.stock.generation_config.pad_token_id = PAD
        image_texts = draw_image_texts(PICTURES, QUESTIONS + 2)
        self.pixels = image_texts.pixels
        self.questions = [[text.encoded.ids for text in texts[2:]] for texts in image_texts.texts]

    @torch.inference_mode()
    def answer_ours(self, length: int) -> list[list[int]]:
        """Answer as the engine does: one prefix per picture, followed by all its questions."""
        tokens = self.ours.image_prefix(self.ours.query_images(self.ours.encode_images(self.pixels)))
        ids = torch.tensor([IMAGE_ID] * QUERIES + [BOS])
        embeds = self.ours.language_model.get_input_embeddings()(ids).repeat(PICTURES, 1, 1)
        embeds[:, :QUERIES] = tokens
        prefixes = compute_prefixes(self.ours.language_model, embeds)
        prompts = [
            Prompt(question, length, prefix)
            for prefix, questions in zip(prefixes, self.questions, strict=True)
            for question in questions
        ]
        return generate(self.ours.language_model, prompts, eos_id=-1)

    @torch.inference_mode()
    def answer_stock(self, length: int, batch: int) -> list[list[int]]:
        """Answer with one row per question."""
        rows = [
            (place, [IMAGE_ID] * QUERIES + [BOS] + question)
            for place, questions in enumerate(self.questions)
            for question in questions
        ]
        answers = []
        for start in range(0, len(rows), batch):
            rows_of_batch = rows[start : start + batch]
            backwards, mask = pad([ids[::-1] for _, ids in rows_of_batch], PAD)
            ids = torch.from_numpy(backwards[:, ::-1].copy())
            generated = self.stock.generate(
                pixel_values=self.pixels[[place for place, _ in rows_of_batch]],
                input_ids=ids,
                attention_mask=torch.from_numpy(mask[:, ::-1].copy()),
                max_new_tokens=length,
                do_sample=False,
            )
            answers += generated[:, ids.shape[1] :].tolist()
        return answers


def timed(work: Any, *arguments: int) -> tuple[float, list[list[int]]]:
    start = time.process_time()
    answers = work(*arguments)
    return time.process_time() - start, answers


def measure(rounds: int) -> dict[str, Any]:
    """Time both sides in turns, after a warm-up round."""
    setting = Setting()
    timed(setting.answer_ours, 2)
    trial = dict.fromkeys(BATCHES, float("inf"))
    for batch in (*BATCHES, *BATCHES):
        trial[batch] = min(trial[batch], timed(setting.answer_stock, LENGTHS[0], batch)[0])
    best = min(trial, key=lambda batch: trial[batch])
    result: dict[str, Any] = {"batch_trial_seconds": trial, "stock_batch": best, "lengths": {}}
    for place, length in enumerate(LENGTHS):
        raw: dict[str, list[float]] = {"ours": [], "stock": []}
        equal = 1.0
        for _ in range(rounds if place == 0 else 1):
            seconds, ours = timed(setting.answer_ours, length)
            raw["ours"].append(seconds)
            seconds, stock = timed(setting.answer_stock, length, best)
            raw["stock"].append(seconds)
            equal = min(equal, statistics.mean(a == b for a, b in zip(ours, stock, strict=True)))
        different = len({tuple(answer) for answer in ours})
        result["lengths"][str(length)] = {"seconds": raw, "answers_equal": equal, "different": different}
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = measure(int(sys.argv[1]))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result))
    print(json.dumps(result))
