"""The leak guard: whether training and evaluation share pictures or texts.

Pictures are shared if their pixels are equal (any lossless format), or if one is a near copy of the other:
another size, another JPEG quality, a crop that leaves most of it, a flip. Pictures that a grammar drew look
alike to perceptual hashes and are compared by their pixels alone.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ziya_visual.core import log
from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import open_picture
from ziya_visual.core.records import Example
from ziya_visual.data.fingerprints import Fingerprint, fingerprint
from ziya_visual.data.kept_prints import KeptPrints
from ziya_visual.data.near_index import NearIndex

# Of 256 bits. Copies but 1.6 % of the crops are nearer than this, other photographs but two mirrored corners
# of one further than 60 (benchmarks/data.py).
FINE_RADIUS = 54


@dataclass(frozen=True, slots=True)
class Leak:
    """A picture or text of the training data, the one of the evaluation that it is, and how it was told."""

    training: str
    evaluation: str
    how: str


@dataclass(slots=True)
class Leaks:
    """What is shared. ``questions`` counts equal questions about different pictures, which is no leak."""

    pictures: list[Leak] = field(default_factory=list)
    texts: list[Leak] = field(default_factory=list)
    questions: int = 0


class KnownPictures:
    """Pictures by name, to be asked whether they hold a copy of another."""

    def __init__(self, prints: Mapping[str, tuple[Fingerprint, bool]]) -> None:
        """Take fingerprints, each with whether a grammar drew the picture."""
        self._content = {found.content: name for name, (found, _) in prints.items()}
        near = [(name, found) for name, (found, drawn) in prints.items() if not drawn]
        self._names = [name for name, _ in near]
        self._views = len(near[0][1].coarse) if near else 1
        self._fine = np.concatenate([found.fine for _, found in near]) if near else None
        self._index = NearIndex(np.concatenate([found.coarse for _, found in near])) if near else None

    def copy_of(self, found: Fingerprint, *, drawn: bool) -> tuple[str, str] | None:
        """(name, how) of the picture that this is a copy of; None: there is none."""
        copies = self.copies_of(found, drawn=drawn)
        if not copies:
            return None
        name, bits = min(copies.items(), key=lambda item: item[1])
        return name, "same pixels" if bits < 0 else f"near copy, {bits} of 256 bits differ"

    def copies_of(self, found: Fingerprint, *, drawn: bool) -> dict[str, int]:
        """Names of the pictures that this is a copy of, and the bits that differ; -1: no pixel does."""
        copies: dict[str, int] = {}
        if not drawn and self._index is not None and self._fine is not None:
            for view in range(len(found.coarse)):
                places = self._index.near(found.coarse[view])
                if view:  # one of a pair is whole: crops of two places of a picture's edge are no copies
                    places = places[places % self._views == 0]
                bits = fine_distance(self._fine[places], found.fine[view])
                for place, count in zip(places[bits <= FINE_RADIUS], bits[bits <= FINE_RADIUS], strict=True):
                    name = self._names[int(place) // self._views]
                    copies[name] = min(int(count), copies.get(name, int(count)))
        if found.content in self._content:
            copies[self._content[found.content]] = -1
        return copies


def fine_distance(many: NDArray[np.uint64], one: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many bits hashes uint64[N, 4] differ from uint64[4]: int64[N]."""
    bits: NDArray[np.int64] = np.bitwise_count(many ^ one).sum(axis=1, dtype=np.int64)
    return bits


def is_drawn(example: Example) -> bool:
    """Whether a grammar drew the picture: its own records and their translations."""
    return example.source == "scenes" or example.provenance.origin == "grammar"


def prints(
    examples: Iterable[Example], what: str, cache: Path | None = None
) -> Iterator[tuple[Example, Fingerprint]]:
    """The first record of each picture, and the picture's fingerprint, of ``cache`` where it is known.

    Raises:
        DataError: a picture cannot be read.
    """
    seen: set[str] = set()
    with log.progress(f"fingerprints of {what}", None) as bar, KeptPrints(cache) as kept:
        for example in examples:
            if example.image is not None and (key := file_of(example)) not in seen:
                seen.add(key)
                found = kept.get(example.image)
                if found is None:
                    found = fingerprint(open_picture(example))
                    kept.add(example.image, found)
                yield example, found
                bar.advance()


def file_of(example: Example) -> str:
    """Equal for records that hold the same file: its path, or a hash of its bytes."""
    assert example.image is not None, "a record with a picture"
    return example.image.path or hashlib.sha256(example.image.bytes or b"").hexdigest()


def pictures_of(examples: Iterable[Example], what: str) -> KnownPictures:
    """The pictures of some records, by name; raises as :func:`prints`."""
    return KnownPictures({picture_name(one): (found, is_drawn(one)) for one, found in prints(examples, what)})


def picture_name(example: Example) -> str:
    """How a picture is called in reports."""
    path = example.image.path if example.image else None
    return path or example.image_id or example.id


def find_leaks(
    training: Sequence[Example], evaluation: Sequence[Example], *, cache: Path | None = None
) -> Leaks:
    """All pictures of the training data that are in the evaluation too, and its texts without a picture."""
    found = Leaks()
    known = pictures_of(evaluation, "the evaluation")
    for example, picture in prints(training, "the training data", cache):
        copy = known.copy_of(picture, drawn=is_drawn(example))
        if copy is not None:
            found.pictures.append(Leak(picture_name(example), *copy))
    asked = {question_hash(example): example for example in evaluation}
    for example in training:
        same = asked.get(question_hash(example))
        if same is not None and example.image is None and same.image is None:
            found.texts.append(Leak(example.id, same.id, "same text"))
        elif same is not None:
            found.questions += 1
    return found


def question_hash(example: Example) -> bytes:
    """A hash of what the user says, or, of a caption alone, of all: see :func:`text_hash`."""
    turns = [turn.content for turn in example.messages if turn.role == "user"]
    return text_hash("\n".join(turns or [turn.content for turn in example.messages]))


def text_hash(text: str) -> bytes:
    """Equal for texts that differ in case, spaces, punctuation or full-width forms alone."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return hashlib.sha256("".join(filter(str.isalnum, plain)).encode("utf-8", "replace")).digest()


def refuse_leaks(
    training: Sequence[Example],
    evaluation: Mapping[str, Sequence[Example]],
    *,
    allowed: Collection[str] = (),
    way: str = "data.shared",
    cache: Path | None = None,
) -> None:
    """Refuse to train on what is evaluated on.

    Args:
        training: the records of ``data.path``.
        evaluation: records by the name of their file.
        allowed: names whose sharing is meant.
        way: the key by which a name is allowed, for the message.
        cache: a file that keeps the fingerprints of the training data, such as ``out/fingerprints.npz``.

    Raises:
        DataError: they share pictures or texts; or a picture cannot be read.
    """
    for name, examples in evaluation.items():
        if name in allowed:
            log.logger.warning("%s may share pictures with the training data: %s says so", name, way)
            continue
        found = find_leaks(training, examples, cache=cache)
        for kind, leaks in (("pictures", found.pictures), ("texts", found.texts)):
            if leaks:
                first = leaks[0]
                raise DataError(
                    f"{name}: {len(leaks)} {kind} of it are in the training data (the first: "
                    f"{first.training} is {first.evaluation}, {first.how}); take them out with "
                    f"`data check --against {name} --fix`, or allow it by {way}=[{name}]"
                )
