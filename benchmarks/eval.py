"""Scoring and asking beside their peers: ``make bench-eval`` writes ``runs/bench/eval.json``.

- ``caption_no_java``: Bleu, ROUGE_L and CIDEr of 5,000 captions against 5 references each, PTB's cut
  included, beside pycocoevalcap 1.2 (whose cut needs Java); the scores must be equal.
- ``retrieval_5k_25k_seconds`` and ``retrieval_rss_mb``: ``score retrieval`` of 5,000 x 25,000 embeddings,
  from the file to the intervals.
- ``vqa_k8`` and ``answers_equal``: 8 questions a picture beside stock ``generate`` (``benchmarks/vqa.py``);
  ``vqa_k8_8`` and ``vqa_k8_16`` with longer answers.

Every timing is a process of its own with one thread: nothing is warm, and the sides take turns. The captions
are made of invented words, as frequent as words are, with the marks and lengths of COCO's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from spread import spread

from ziya_visual.core.files import write_json

IMAGES, TEXTS, WIDTH = 5000, 5, 256
ROUNDS = 5
VQA_ROUNDS = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
OUT = Path("runs/bench/eval.json")


def caption_file(path: Path) -> None:
    """Write 5,000 candidates with 5 references each; a candidate shares words with one reference."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 9))) for _ in range(12_000)]
    frequent = [1 / rank for rank in range(1, len(words) + 1)]

    def caption() -> list[str]:
        return rng.choices(words, frequent, k=max(6, round(rng.gauss(10.5, 2))))

    def written(tokens: list[str]) -> str:
        marks = ("'s", ",", "-" + tokens[-1], " (2)", " 1/2")
        spoken = [word + rng.choice(marks) if rng.random() < 0.03 else word for word in tokens]
        return " ".join(spoken).capitalize() + ("." if rng.random() < 0.8 else "")

    candidates, references = [], []
    for _ in range(IMAGES):
        group = [caption() for _ in range(TEXTS)]
        candidates.append(
            written([w if rng.random() < 0.6 else rng.choices(words, frequent)[0] for w in group[0]])
        )
        references.append([written(tokens) for tokens in group])
    write_json(path, {"candidates": candidates, "references": references})


def caption_ours(path: Path) -> dict[str, Any]:
    from ziya_visual.eval.metrics import caption
    from ziya_visual.eval.metrics.tokenization import ptb_tokenize

    data = json.loads(path.read_text())
    start = time.perf_counter()
    lines = ptb_tokenize(data["candidates"])
    flat = iter(ptb_tokenize([text for group in data["references"] for text in group]))
    groups = [[next(flat) for _ in group] for group in data["references"]]
    counted = caption.prepare(lines, groups)
    rouge, cider = caption.rouge_l(lines, groups).mean(), caption.cider(counted).mean()
    scores = [*caption.bleu(counted), float(rouge), float(cider)]
    return {"seconds": time.perf_counter() - start, "scores": scores}


def caption_peer(path: Path) -> dict[str, Any]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    data = json.loads(path.read_text())
    start = time.perf_counter()
    candidates = PTBTokenizer().tokenize(
        {i: [{"caption": text}] for i, text in enumerate(data["candidates"])}
    )
    references = PTBTokenizer().tokenize(
        {i: [{"caption": text} for text in group] for i, group in enumerate(data["references"])}
    )
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, rouge, cider = (m.compute_score(references, candidates)[0] for m in (Bleu(4), Rouge(), Cider()))
    return {"seconds": time.perf_counter() - start, "scores": [*bleu, float(rouge), float(cider)]}


def retrieval_file(path: Path) -> None:
    """Write float32 embeddings in which a text is near its image."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(IMAGES, WIDTH)).astype(np.float32)
    owner = np.repeat(np.arange(IMAGES), TEXTS)
    text = image[owner] + 4 * rng.normal(size=(len(owner), WIDTH)).astype(np.float32)
    np.savez(path, image=image, text=text, text2image=owner)


def retrieval_ours(path: Path) -> dict[str, Any]:
    from ziya_visual.eval.score import compute

    start = time.perf_counter()
    scores = compute("retrieval", embeddings=path)["scores"]
    seconds = time.perf_counter() - start
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "rss_mb": rss_mb, "scores": scores}


SIDES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "caption_ours": caption_ours,
    "caption_peer": caption_peer,
    "retrieval_ours": retrieval_ours,
}


def measure(side: str, path: Path) -> dict[str, Any]:
    """Run one side in a fresh process with one thread."""
    process = subprocess.run(
        [sys.executable, __file__, side, str(path)],
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def captions(folder: Path, report: dict[str, Any]) -> None:
    caption_file(folder / "captions.json")
    peer = shutil.which("java") is not None and importlib.util.find_spec("pycocoevalcap") is not None
    raw: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(ROUNDS):
        ours = measure("caption_ours", folder / "captions.json")
        raw["ours"].append(ours["seconds"])
        if peer:
            theirs = measure("caption_peer", folder / "captions.json")
            raw["peer"].append(theirs["seconds"])
            difference = max(abs(a - b) for a, b in zip(ours["scores"], theirs["scores"], strict=True))
            report["checks"]["caption_max_difference"] = difference
    report["checks"]["caption_5k_seconds"] = statistics.median(raw["ours"])
    report["raw"]["caption_seconds"] = raw
    if peer:
        ratios = [b / a for a, b in zip(raw["ours"], raw["peer"], strict=True)]
        report["ratios"]["caption_no_java"] = spread(ratios)
        report["versions"]["pycocoevalcap"] = version("pycocoevalcap")
    else:
        report["missing"]["caption_no_java"] = "the peer needs Java and pycocoevalcap"


def retrieval(folder: Path, report: dict[str, Any]) -> None:
    retrieval_file(folder / "embeddings.npz")
    rounds = [measure("retrieval_ours", folder / "embeddings.npz") for _ in range(ROUNDS)]
    report["checks"]["retrieval_5k_25k_seconds"] = statistics.median(entry["seconds"] for entry in rounds)
    report["checks"]["retrieval_rss_mb"] = max(entry["rss_mb"] for entry in rounds)
    report["raw"]["retrieval"] = [{key: entry[key] for key in ("seconds", "rss_mb")} for entry in rounds]


def questions(folder: Path, report: dict[str, Any]) -> None:
    out = folder / "vqa.json"
    command = [sys.executable, str(Path(__file__).with_name("vqa.py")), str(VQA_ROUNDS), str(out)]
    subprocess.run(command, env=os.environ | ONE_THREAD, check=True, capture_output=True)
    vqa_report = json.loads(out.read_text())
    for place, (length, entry) in enumerate(vqa_report["lengths"].items()):
        name = "vqa_k8" if place == 0 else f"vqa_k8_{length}"
        pairs = zip(entry["seconds"]["stock"], entry["seconds"]["ours"], strict=True)
        report["ratios"][name] = spread([stock / ours for stock, ours in pairs])
    report["checks"]["answers_equal"] = min(
        entry["answers_equal"] for entry in vqa_report["lengths"].values()
    )
    report["raw"]["vqa"] = vqa_report
    report["versions"] |= {name: version(name) for name in ("torch", "transformers")}


# Each part adds its ratios, checks and raw timings.
PARTS = (captions, retrieval, questions)


def main() -> None:
    report: dict[str, Any] = {
        "ratios": {},
        "checks": {},
        "missing": {},
        "versions": {name: version(name) for name in ("ziya-visual", "numpy")}
        | {"python": sys.version.split()[0]},
        "raw": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            part(Path(folder), report)
    write_json(OUT, report)
    print(json.dumps({key: report[key] for key in ("ratios", "checks", "missing")}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(SIDES[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main()
