"""The leak guard: whether training and evaluation data share images or texts.

Two images are the same if their pixels are equal (in any lossless format), or if one is a near copy of the
other: another size, another JPEG quality, a crop that leaves most of it, a flip. Images that a grammar drew
look alike to perceptual hashes and are compared by their pixels only.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ziya_visual.core import log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import hash_bytes
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.records import Example
from ziya_visual.data.fingerprints import Fingerprint, FingerprintCache, fingerprint

# Of 256 bits. All copies but 1.6 % of the crops are closer than this; all other photographs, except two
# mirrored corners of one, differ in more than 60 (benchmarks/data_leaks.py).
FINE_RADIUS = 54
RADIUS = 11  # of 64 bits: the most that pieces which differ in at most two bits can guarantee
_PIECES, _BITS = 4, 16
_FLIPS = np.asarray(
    [sum(1 << bit for bit in bits) for count in range(3) for bits in combinations(range(_BITS), count)]
)


@dataclass(frozen=True, slots=True)
class Leak:
    """An image or text of the training data, its counterpart in the evaluation data, and how they match."""

    training: str
    evaluation: str
    how: str


@dataclass(slots=True)
class Leaks:
    """Shared images and texts. ``questions`` counts equal questions about different images: not a leak."""

    images: list[Leak] = field(default_factory=list)
    texts: list[Leak] = field(default_factory=list)
    questions: int = 0


class HashIndex:
    """Finds which of N 64-bit hashes differ from a query in a few bits (Norouzi et al. 2012).

    A hash is cut into four pieces of 16 bits. Two hashes that differ in at most eleven bits have a piece in
    which they differ in at most two: 4 x 137 short lists hold every candidate. A million hashes take 25 MB.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        """Sort uint64[N] by each piece."""
        self._hashes = hashes
        self._orders: list[NDArray[np.int32]] = []  # by piece: hash numbers, sorted by the piece's value
        self._starts: list[NDArray[np.int32]] = []  # by piece: where each of its 65,536 values begins
        for piece in range(_PIECES):
            keys = (hashes >> np.uint64(piece * _BITS)).astype(np.uint16)
            self._orders.append(np.argsort(keys, kind="stable").astype(np.int32))
            counts = np.bincount(keys, minlength=1 << _BITS)
            self._starts.append(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

    @property
    def nbytes(self) -> int:
        """Return the size of all arrays in bytes."""
        return self._hashes.nbytes + sum(array.nbytes for array in (*self._orders, *self._starts))

    def search(self, query: np.uint64) -> NDArray[np.int32]:
        """Return the numbers of the hashes that differ in at most :data:`RADIUS` bits, ascending."""
        candidates = np.concatenate([self._candidates(int(query), piece) for piece in range(_PIECES)])
        close = np.bitwise_count(self._hashes[candidates] ^ query) <= RADIUS
        return np.unique(candidates[close])

    def _candidates(self, query: int, piece: int) -> NDArray[np.int32]:
        """Return the numbers of the hashes whose piece differs in at most two bits."""
        keys = (query >> (piece * _BITS) & (1 << _BITS) - 1) ^ _FLIPS
        starts = self._starts[piece]
        first, lengths = starts[keys], starts[keys + 1] - starts[keys]
        before = np.cumsum(lengths) - lengths
        places = np.repeat(first - before, lengths) + np.arange(lengths.sum())
        numbers: NDArray[np.int32] = self._orders[piece][places]
        return numbers


class KnownImages:
    """Images by name that can be searched for copies of another image."""

    def __init__(self, fingerprints: Mapping[str, tuple[Fingerprint, bool]]) -> None:
        """Index fingerprints, each with whether a grammar drew the image."""
        self._by_content = {image.content: name for name, (image, _) in fingerprints.items()}
        photographs = [(name, image) for name, (image, drawn) in fingerprints.items() if not drawn]
        self._names = [name for name, _ in photographs]
        self._views = len(photographs[0][1].coarse) if photographs else 1
        self._fine = np.concatenate([image.fine for _, image in photographs]) if photographs else None
        self._index = (
            HashIndex(np.concatenate([image.coarse for _, image in photographs])) if photographs else None
        )

    def copy_of(self, image: Fingerprint, *, drawn: bool) -> tuple[str, str] | None:
        """Return (name, how) of the closest image that this one is a copy of, or None."""
        copies = self.copies_of(image, drawn=drawn)
        if not copies:
            return None
        name, bits = min(copies.items(), key=lambda item: item[1])
        return name, "same pixels" if bits < 0 else f"near copy, {bits} of 256 bits differ"

    def copies_of(self, image: Fingerprint, *, drawn: bool) -> dict[str, int]:
        """Return the names of all copies and how many bits differ; -1 where all pixels are equal."""
        copies: dict[str, int] = {}
        if not drawn and self._index is not None and self._fine is not None:
            for view in range(len(image.coarse)):
                places = self._index.search(image.coarse[view])
                if view:  # compare a crop with whole images only: two corners of one image are no copies
                    places = places[places % self._views == 0]
                bits = fine_distance(self._fine[places], image.fine[view])
                for place, count in zip(places[bits <= FINE_RADIUS], bits[bits <= FINE_RADIUS], strict=True):
                    name = self._names[int(place) // self._views]
                    copies[name] = min(int(count), copies.get(name, int(count)))
        if image.content in self._by_content:
            copies[self._by_content[image.content]] = -1
        return copies


def fine_distance(hashes: NDArray[np.uint64], query: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count the bits in which hashes uint64[N, 4] differ from uint64[4]: int64[N]."""
    bits: NDArray[np.int64] = np.bitwise_count(hashes ^ query).sum(axis=1, dtype=np.int64)
    return bits


def is_drawn(example: Example) -> bool:
    """Return whether a grammar drew the image: its own records and their translations."""
    return example.source == "scenes" or example.provenance.origin == "grammar"


def fingerprints(
    examples: Iterable[Example], title: str, cache: Path | None = None
) -> Iterator[tuple[Example, Fingerprint]]:
    """Yield the first record of each image file with its fingerprint, from ``cache`` where it is known."""
    seen: set[str] = set()
    with log.progress(f"fingerprints of {title}", None) as bar, FingerprintCache(cache) as cached:
        for example in examples:
            if example.image is not None and (key := file_key(example)) not in seen:
                seen.add(key)
                image = cached.get(example.image)
                if image is None:
                    image = fingerprint(open_picture(example))
                    cached.add(example.image, image)
                yield example, image
                bar.advance()


def file_key(example: Example) -> str:
    """Return a key that is equal for records of the same image file: its path, or a hash of its bytes."""
    assert example.image is not None, "a record with an image"
    return example.image.path or hash_bytes(example.image.bytes or b"")


def known_images(examples: Iterable[Example], title: str) -> KnownImages:
    """Index the images of some records by name; ``DataError`` if one cannot be read."""
    rows = fingerprints(examples, title)
    return KnownImages({_image_name(example): (image, is_drawn(example)) for example, image in rows})


def _image_name(example: Example) -> str:
    """Return the name of an image in reports."""
    path = example.image.path if example.image else None
    return path or example.image_id or example.id


def find_leaks(
    training: Sequence[Example], evaluation: Sequence[Example], *, cache: Path | None = None
) -> Leaks:
    """Find the training images that the evaluation has too, and the shared texts without an image."""
    leaks = Leaks()
    known = known_images(evaluation, "the evaluation")
    for example, image in fingerprints(training, "the training data", cache):
        copy = known.copy_of(image, drawn=is_drawn(example))
        if copy is not None:
            leaks.images.append(Leak(_image_name(example), *copy))
    by_question = {question_hash(example): example for example in evaluation}
    for example in training:
        same = by_question.get(question_hash(example))
        if same is not None and example.image is None and same.image is None:
            leaks.texts.append(Leak(example.id, same.id, "same text"))
        elif same is not None:
            leaks.questions += 1
    return leaks


def question_hash(example: Example) -> bytes:
    """Hash the user's turns, or all turns of a record that has none such as a caption: :func:`text_hash`."""
    turns = [turn.content for turn in example.messages if turn.role == "user"]
    return text_hash("\n".join(turns or [turn.content for turn in example.messages]))


def text_hash(text: str) -> bytes:
    """Hash a text so that case, spaces, punctuation and full-width forms make no difference."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return hashlib.sha256("".join(filter(str.isalnum, plain)).encode("utf-8", "replace")).digest()


def refuse_leaks(
    training: Sequence[Example],
    evaluation: Mapping[str, Sequence[Example]],
    *,
    allowed: Collection[str] = (),
    cache: Path | None = None,
) -> None:
    """Refuse to train on evaluation data: ``DataError`` if they share images or texts.

    Args:
        training: records of ``data.path``.
        evaluation: records by file name.
        allowed: names that may share data with the training set, from the recipe's ``data.shared``.
        cache: file that keeps the fingerprints of the training data, such as ``out/fingerprints.npz``.
    """
    for name, examples in evaluation.items():
        if name in allowed:
            log.logger.warning(
                "%s may share images with the training data, because data.shared allows it", name
            )
            continue
        leaks = find_leaks(training, examples, cache=cache)
        for kind, rows in (("images", leaks.images), ("texts", leaks.texts)):
            if rows:
                first = rows[0]
                raise DataError(
                    f"{name}: {len(rows)} of its {kind} are in the training data (the first: "
                    f"{first.training} is {first.evaluation}, {first.how}); remove them with "
                    f"`data check --against {name} --fix`, or allow it by data.shared=[{name}]"
                )
