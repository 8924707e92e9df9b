"""Fingerprints that are kept on the disk: decoding every picture anew at each start would take long."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from types import TracebackType

import numpy as np

from ziya_visual.core import log
from ziya_visual.core.files import atomic_path
from ziya_visual.core.records import ImageRef
from ziya_visual.data.fingerprints import VIEWS, Fingerprint


class KeptPrints:
    """Fingerprints by file: its path, size and time of change; or by the hash of bytes. A context manager."""

    def __init__(self, path: Path | None) -> None:
        """Read the file if it is there; None keeps nothing. A damaged file is a line and computed anew."""
        self._path, self._new = path, False
        self._prints: dict[str, Fingerprint] = {}
        if path is None or not path.is_file():
            return
        try:
            with np.load(path) as held:
                rows = zip(held["keys"], held["contents"], held["coarse"], held["fine"], strict=True)
                if held["views"].tolist() == list(VIEWS):
                    self._prints = {str(k): Fingerprint(str(c), coarse, fine) for k, c, coarse, fine in rows}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.logger.warning("%s: fingerprints cannot be read (%s), they are computed anew", path, error)

    def get(self, image: ImageRef) -> Fingerprint | None:
        """The fingerprint of a picture, if it is known and its file has not changed."""
        return self._prints.get(_key(image))

    def add(self, image: ImageRef, found: Fingerprint) -> None:
        """Keep one."""
        self._prints[_key(image)], self._new = found, True

    def __enter__(self) -> KeptPrints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is new, even after an error: what was computed need not be again."""
        if self._path is None or not self._new:
            return
        prints = list(self._prints.values())
        with atomic_path(self._path) as aside, aside.open("wb") as file:
            np.savez(
                file,
                views=np.asarray(VIEWS),
                keys=np.asarray(list(self._prints)),
                contents=np.asarray([one.content for one in prints]),
                coarse=np.stack([one.coarse for one in prints]),
                fine=np.stack([one.fine for one in prints]),
            )


def _key(image: ImageRef) -> str:
    if image.path is None:
        return hashlib.sha256(image.bytes or b"").hexdigest()
    try:
        found = Path(image.path).stat()
    except OSError:
        return image.path
    return f"{image.path}:{found.st_size}:{found.st_mtime_ns}"
