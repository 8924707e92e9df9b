"""The pictures that a reader's rows name: inside their folder, regular files, within the limits."""

from __future__ import annotations

from pathlib import Path

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import picture_size
from ziya_visual.core.records import ImageRef

_REMEMBERED = 10_000  # names whose answer is kept: the texts of a picture lie close together


class Pictures:
    """Looks pictures up by name in one folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; links inside it may not lead out."""
        self.folder, self._root = folder, folder.resolve()
        self._known: dict[tuple[str, ...], ImageRef | DataError] = {}

    def get(self, *names: str) -> ImageRef:
        """The first of these files that is there. Its header is read, its pixels are not.

        Raises:
            DataError: none is there, or the one that is leads out of the folder, or is no picture.
        """
        if names not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            try:
                self._known[names] = self._find(names)
            except DataError as error:
                self._known[names] = error
        found = self._known[names]
        if isinstance(found, DataError):
            raise DataError(str(found))
        return found

    def _find(self, names: tuple[str, ...]) -> ImageRef:
        for name in names:
            if "\0" in name or len(name) > 1000 or "://" in name:
                raise DataError(f"{name[:60]!r}: no name of a picture; pictures are files, no URL is fetched")
            path = self.folder / name
            try:
                resolved = path.resolve()
                there = path.exists()
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(f"{name}: cannot be read ({error})") from error
            if not resolved.is_relative_to(self._root):
                raise DataError(f"{name}: leads out of the folder {self.folder}")
            if there:
                picture_size(path)
                return ImageRef(path=str(path))
        raise DataError(f"{names[0]}: not found in {self.folder}")
