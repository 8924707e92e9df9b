"""The leak guard on photographs, of which `benchmarks/data.py` makes its files too."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ziya_visual.data.leaks import fine_distance

PHOTOGRAPHS = (
    "astronaut brick camera cell chelsea clock_motion coffee coins grass gravel horse hubble_deep_field ihc "
    "moon motorcycle_left page retina rocket text"
).split()
HASHES, LOOKUPS = 1_000_000, 500
CROPS = 3  # of each picture


def photographs() -> list[Image.Image]:
    """Cut each photograph into 4 parts, and the large ones into 9."""
    import skimage

    crops = []
    for name in PHOTOGRAPHS:
        (path,) = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
        whole = Image.open(path).convert("RGB")
        parts = 3 if min(whole.size) >= 600 else 2
        width, height = whole.width // parts, whole.height // parts
        for x, y in itertools.product(range(parts), repeat=2):
            crops.append(whole.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)))
    return crops


def jpegs(count: int, size: tuple[int, int]) -> Iterator[bytes]:
    """Yield different JPEG pictures: random windows of the photographs."""
    rng = np.random.default_rng(0)
    sources = photographs()
    for _ in range(count):
        source = sources[rng.integers(len(sources))]
        part = rng.uniform(0.5, 0.9)
        width, height = (max(8, int(side * part)) for side in source.size)
        left, top = rng.integers(source.width - width + 1), rng.integers(source.height - height + 1)
        window = source.resize(size, box=(left, top, left + width, top + height))
        buffer = io.BytesIO()
        window.save(buffer, "JPEG", quality=85)
        yield buffer.getvalue()


def leaks(folder: Path, rounds: int) -> dict[str, Any]:
    from ziya_visual.data.fingerprints import fingerprint
    from ziya_visual.data.leaks import FINE_RADIUS, KnownImages

    rng = np.random.default_rng(0)

    def jpeg(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=50)
        return Image.open(buffer).convert("RGB")

    def crop(picture: Image.Image) -> Image.Image:
        """Cut off 5 % of the width and 5 % of the height, at a random place."""
        width, height = (round(side * 0.95) for side in picture.size)
        left, top = rng.integers(picture.width - width + 1), rng.integers(picture.height - height + 1)
        return picture.crop((left, top, left + width, top + height))

    copies: dict[str, list[Callable[[Image.Image], Image.Image]]] = {
        "half_size": [lambda picture: picture.resize((picture.width // 2, picture.height // 2))],
        "jpeg_50": [jpeg],
        "crop": [crop] * CROPS,
        "flip": [ImageOps.mirror],
    }
    pictures = photographs()
    started = time.perf_counter()
    prints = [fingerprint(picture) for picture in pictures]
    milliseconds = 1000 * (time.perf_counter() - started) / len(pictures)
    known = KnownImages({str(number): (own_print, False) for number, own_print in enumerate(prints)})
    recall = {}
    for name, changes in copies.items():
        matches = [
            known.copies_of(fingerprint(change(picture)), drawn=False)
            for change in changes
            for picture in pictures
        ]
        right = sum(str(n % len(pictures)) in names for n, names in enumerate(matches))
        recall[name] = right / len(matches)
    named = [set(known.copies_of(own_print, drawn=False)) - {str(n)} for n, own_print in enumerate(prints)]
    wrong = sum(map(len, named)) // 2
    pairs = len(prints) * (len(prints) - 1) // 2
    checks = {
        "leak_recall": min(recall["half_size"], recall["jpeg_50"]),
        "leak_recall_crop": recall["crop"],
        "leak_recall_flip": recall["flip"],
        "leak_false_alarms": wrong / pairs,
        "leak_false_alarms_scenes": scenes(),
    }
    others = sorted(nearest(first, second) for first, second in itertools.combinations(prints, 2))
    cropped = [(first, fingerprint(crop(picture))) for first, picture in zip(prints, pictures, strict=True)]
    whole = [int(fine_distance(first.fine[:1], second.fine[0])[0]) for first, second in cropped]
    raw = {
        "pictures": len(prints),
        "pairs": pairs,
        "wrong_pairs": wrong,
        "fingerprint_ms": milliseconds,
        "bits_of_others": others[:3],
        "bits_of_crops": max(nearest(first, second) for first, second in cropped),
        "recall_crop_whole_alone": sum(bits <= FINE_RADIUS for bits in whole) / len(whole),
    }
    return {"checks": checks, "raw": {"leaks": raw | {"recall": recall}}}


def nearest(picture: Any, other: Any) -> int:
    """Return the fewest of 256 bits by which the whole of one picture differs from a view of another."""
    return int(
        min(
            fine_distance(picture.fine, other.fine[0]).min(), fine_distance(other.fine, picture.fine[0]).min()
        )
    )


def scenes(count: int = 1000) -> float:
    """Return the fraction of pairs of drawn scenes that are wrongly taken for copies."""
    from ziya_visual.data.fingerprints import fingerprint
    from ziya_visual.data.leaks import KnownImages
    from ziya_visual.scenes.drawing import render, sample_scene

    rng = np.random.default_rng(0)
    prints = [fingerprint(Image.fromarray(render(sample_scene(rng, held_out=False)))) for _ in range(count)]
    known = KnownImages({str(number): (own_print, True) for number, own_print in enumerate(prints)})
    wrong = 0
    for own_print in prints:
        named = known.copies_of(own_print, drawn=True)
        wrong += sum(prints[int(other)].content != own_print.content for other in named)
    return wrong / (count * (count - 1) // 2)


def lookups(folder: Path, rounds: int) -> dict[str, Any]:
    from ziya_visual.data.fingerprints import FINE_WORDS
    from ziya_visual.data.leaks import HashIndex

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 2**64, HASHES, dtype=np.uint64)
    fine = rng.integers(0, 2**64, (HASHES, FINE_WORDS), dtype=np.uint64)
    index = HashIndex(coarse)
    milliseconds = []
    for place in rng.integers(0, HASHES, LOOKUPS):
        started = time.perf_counter()
        near = index.search(coarse[place] ^ np.uint64(0b10101))
        distances = fine_distance(fine[near], fine[place])
        milliseconds.append(1000 * (time.perf_counter() - started))
        assert distances.min() == 0
    megabytes = (index.nbytes + fine.nbytes) / 1e6
    checks = {"lookup_ms": statistics.median(milliseconds), "hashes_mb": megabytes}
    return {"checks": checks, "raw": {"lookup_ms_p95": float(np.percentile(milliseconds, 95))}}
