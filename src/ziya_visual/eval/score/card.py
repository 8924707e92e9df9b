"""The card of a score: what anyone needs to repeat the numbers, and the way back from it to the files."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import hash_file
from ziya_visual.eval.score.files import Scored
from ziya_visual.eval.score.intervals import RULE


def make_card(form: str, given: dict[str, Any], scored: Scored, command: str) -> dict[str, Any]:
    """The rule, the options, the files with their hashes, the versions and what was typed."""
    files = {
        name: {"path": str(value), "sha256": hash_file(value)}
        for name, value in given.items()
        if isinstance(value, Path)
    }
    versions = {name: version(name) for name in sorted({"ziya-visual", "numpy", *scored.packages})}
    return {
        "form": form,
        "rule": scored.rule,
        "options": {name: value for name, value in given.items() if name not in files},
        "files": files,
        "interval_rule": RULE,
        "not_computed": scored.not_computed,
        "notes": scored.notes,
        "versions": versions | {"python": platform.python_version()},
        "command": command,
    }


def card_inputs(path: Path, card: Any) -> dict[str, Any]:
    """The inputs that a card names: its files where they were scored, or beside it if they have moved.

    Args:
        path: the file that holds the card.
        card: what stands there under ``card``.

    Raises:
        DataError: no card, or a file that is gone or has changed since.
    """
    if not isinstance(card, dict) or not {"form", "options", "files"} <= set(card):
        raise DataError(f"{path}: holds no score card; expected a file written by score --out")
    inputs: dict[str, Any] = dict(card["options"])
    for name, entry in card["files"].items():
        places = Path(entry["path"]), path.parent / Path(entry["path"]).name
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DataError(f"{path}: {places[0]} ({name}) is gone")
        if hash_file(file) != entry["sha256"]:
            raise DataError(f"{path}: {file} ({name}) is not the file that was scored; its hash has changed")
        inputs[name] = file
    return inputs
