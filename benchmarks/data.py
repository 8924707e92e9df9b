"""Importing, decoding, shuffling, memory, and the leak guard on photographs: runs/bench/data.json.

    python benchmarks/data.py [--rounds 5] [--folder DIR]

Each part has a process of its own with one thread. Ours and the peer (bare Pillow; the same stream in the
order of its files) take turns on the same files, which are in the page cache, and their CPU seconds are
compared, for what else the machine does is not what is measured. The photographs are those that
scikit-image ships, cut into parts that do not overlap: each part is a picture of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_leaks import jpegs, leaks, lookups
from PIL import Image
from spread import spread

from ziya_visual.core.files import write_json

OUT = Path("runs/bench/data.json")
VERSIONS = ("ziya-visual", "datasets", "pyarrow", "pillow", "numpy")
IMPORTED, CAPTIONS = 4000, 5
STREAMED, MEMORY = 20_000, 100_000
DRAWN = 5000  # pictures; more than these are told apart by what follows them
SIZE, SMALL, SIDE = (640, 480), (160, 120), 224


def make_coco(folder: Path) -> Path:
    path = folder / "captions.json"
    if path.is_file():
        return path
    images, annotations = [], []
    for number, data in enumerate(jpegs(IMPORTED, SIZE)):
        (folder / f"{number:06d}.jpg").write_bytes(data)
        images.append({"id": number, "file_name": f"{number:06d}.jpg"})
        for text in range(CAPTIONS):
            caption = f"A picture of something, number {number}, in other words {text}."
            annotations.append({"id": number * CAPTIONS + text, "image_id": number, "caption": caption})
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def importing(folder: Path, rounds: int) -> dict[str, Any]:
    from ziya_visual.data.tools.importing import import_dataset

    path = make_coco(folder)
    raw: dict[str, list[float]] = {"parquet": [], "jsonl": []}
    per_cpu_second: list[float] = []
    for _ in range(rounds):
        for form in raw:
            started, busy = time.perf_counter(), time.process_time()
            manifest = import_dataset("coco", path, out=folder / form, form=form)  # type: ignore[arg-type]
            raw[form].append(manifest["records"] / (time.perf_counter() - started))
            per_cpu_second += (
                [manifest["records"] / (time.process_time() - busy)] if form == "parquet" else []
            )
            assert manifest["records"] == IMPORTED * CAPTIONS
    checks = {
        "records_per_second": statistics.median(raw["parquet"]),
        "records_per_cpu_second": statistics.median(per_cpu_second),
    }
    return {"checks": checks, "raw": {"records": raw}}


def decoding(folder: Path, rounds: int) -> dict[str, Any]:
    from ziya_visual.core.pictures import load_image

    make_coco(folder)
    files = sorted(folder.glob("*.jpg"))[:300]

    def ours(path: Path) -> Image.Image:
        return load_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)

    def pillow(path: Path) -> Image.Image:
        with Image.open(path) as picture:
            return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)

    def seconds(decode: Callable[[Path], Image.Image]) -> float:
        started = time.process_time()
        for path in files:
            decode(path)
        return time.process_time() - started

    raw: dict[str, list[float]] = {"ours": [], "pillow": []}
    seconds(ours)
    for _ in range(2 * rounds):
        raw["ours"].append(seconds(ours))
        raw["pillow"].append(seconds(pillow))
    ratios = [peer / own for own, peer in zip(raw["ours"], raw["pillow"], strict=True)]
    return {"ratios": {"decode_vs_pillow": spread(ratios)}, "raw": {"decode_seconds": raw}}


def make_records(folder: Path, count: int) -> None:
    from ziya_visual.core.records import Example, ImageRef, Message
    from ziya_visual.data.dataset import write_dataset

    if not folder.is_dir():
        turns = (Message("assistant", "A picture of something."),)
        pictures = list(jpegs(min(count, DRAWN), SMALL))
        rows = (  # what follows the end of a JPEG makes the bytes other ones and is not read
            Example(str(n), "en", "caption", turns, ImageRef(bytes=pictures[n % DRAWN] + b"%d" % n), str(n))
            for n in range(count)
        )
        folder.mkdir(parents=True)
        assert write_dataset(folder, rows, "parquet") == count


def shuffling(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure shuffled reading as training does it, undecoded; ``rows`` is `datasets` alone."""
    from ziya_visual.data.dataset import stream, stream_records

    make_records(folder / "stream", STREAMED)

    def once(seed: int | None, take: Callable[[Any], Iterable[Any]]) -> float:
        started = time.process_time()
        assert sum(1 for _ in take(stream(folder / "stream", seed=seed))) == STREAMED
        return time.process_time() - started

    def seconds(seed: int | None, take: Callable[[Any], Iterable[Any]]) -> float:
        return min(once(seed, take) for _ in range(3))

    takes: dict[str, Callable[[Any], Iterable[Any]]] = {"records": stream_records, "rows": iter}
    raw: dict[str, dict[str, list[float]]] = {name: {"plain": [], "shuffled": []} for name in takes}
    ratios = {}
    for name, take in takes.items():
        seconds(None, take)
        for number in range(2 * rounds):
            raw[name]["plain"].append(seconds(None, take))
            raw[name]["shuffled"].append(seconds(number, take))
        pairs = zip(raw[name]["plain"], raw[name]["shuffled"], strict=True)
        ratios[name] = spread([plain / shuffled for plain, shuffled in pairs])
    medians = {"shuffled_vs_plain": ratios["records"], "shuffled_vs_plain_rows": ratios["rows"]}
    return {"ratios": medians, "raw": {"stream_seconds": raw}}


def memory(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the peak resident memory of a process that streams and decodes every picture."""
    from ziya_visual.core.pictures import load_image
    from ziya_visual.data.dataset import stream, stream_records

    started = time.perf_counter()
    count = 0
    for example in stream_records(stream(folder / "memory", seed=0)):
        assert example.image is not None
        assert load_image(example.image.bytes or b"").size == SMALL
        count += 1
    assert count == MEMORY
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    seconds = time.perf_counter() - started
    return {"checks": {"rss_mb_100k": int(peak.split()[1]) / 1024}, "raw": {"stream_100k_seconds": seconds}}


def make_memory(folder: Path, rounds: int) -> dict[str, Any]:
    """Write the files in a separate process, so that writing them is not measured."""
    make_records(folder / "memory", MEMORY)
    size = sum(file.stat().st_size for file in (folder / "memory").iterdir())
    return {"raw": {"gigabytes_100k": size / 1e9}}


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "importing": importing,
    "decoding": decoding,
    "shuffling": shuffling,
    "make_memory": make_memory,
    "memory": memory,
    "leaks": leaks,
    "lookups": lookups,
}


def measure(part: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Run one part in a fresh process with one thread."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--rounds", str(rounds)]
    process = subprocess.run(
        command, env=os.environ | one_thread, capture_output=True, text=True, check=False
    )
    if process.returncode:
        sys.exit(process.stderr)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.folder, options.rounds)))
        return
    report: dict[str, Any] = {
        "ratios": {},
        "checks": {},
        "versions": {
            name: version(name) for name in ("ziya-visual", "datasets", "pyarrow", "pillow", "numpy")
        },
        "raw": {},
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for part in PARTS:
            started = time.perf_counter()
            entries = measure(part, Path(name), options.rounds)
            for key, values in entries.items():
                report[key] |= values
            print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    write_json(OUT, report)
    print(json.dumps({key: report[key] for key in ("ratios", "checks")}, indent=1))


if __name__ == "__main__":
    main()
