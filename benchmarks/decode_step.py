"""One decoding step in bfloat16 and with weights in eight bits, in turns: milliseconds by rows.

    python benchmarks/decode_step.py [--rounds 5] [--threads 2]

The language model of ``train_setting.py`` with random weights; prompts of 50 tokens, 20 steps a round.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch
from train_setting import models

from ziya_visual.infer.decoder import Decoder, Prompt
from ziya_visual.infer.quantized import quantize

ROWS, STEPS = (1, 2, 4, 8, 16), 20


def milliseconds(model: Any, rows: int) -> float:
    """Measure the milliseconds of a decoding step, after two warm-up steps."""
    decoder = Decoder(model, eos_id=-1)
    decoder.add([Prompt(list(range(10, 60)), 100)] * rows, list(range(rows)))
    decoder.step()
    decoder.step()
    started = time.perf_counter()
    for _ in range(STEPS):
        decoder.step()
    return (time.perf_counter() - started) / STEPS * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = models()[0].language_model.to(torch.bfloat16).eval()
    small = copy.deepcopy(whole)
    quantize(small)
    for rows in ROWS:
        pairs = [(milliseconds(whole, rows), milliseconds(small, rows)) for _ in range(options.rounds)]
        ratios = [a / b for a, b in pairs]
        bf16, int8 = (statistics.median(side) for side in zip(*pairs, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(
            f"{rows:3} rows: bfloat16 {bf16:.1f} ms, int8 {int8:.1f} ms, {spread} times as fast", flush=True
        )


if __name__ == "__main__":
    main()
