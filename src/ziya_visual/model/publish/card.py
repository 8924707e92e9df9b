"""The model card: what the folder is, how it was checked, and the numbers of ``results.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, write_text

RESULTS = "results.json"
PACKAGES = ("ziya-visual", "torch", "transformers")
_FIELDS = {"model", "split", "lang", "task", "name", "value", "low", "high", "n"}


def write_card(folder: Path, *, name: str, checkpoint: Path, parity: Mapping[str, Any], command: str) -> None:
    """Write ``README.md``.

    Args:
        folder: the exported folder, complete except for the card.
        name: the title.
        checkpoint: the exported checkpoint; ``results.json`` is read from it or else from its parent.
        parity: the content of ``parity.json``.
        command: the command that exported it.

    Raises:
        DataError: there is a ``results.json`` of another form.
    """
    config = read_json(folder / "config.json")
    results = _results(checkpoint)
    retrieval = config["architectures"] == ["Blip2ForImageTextRetrieval"]
    rows = _rows_of(results["metrics"], checkpoint.name) if results else []
    rows = [
        row for row in rows if row["task"] == "retrieval" or not retrieval
    ]  # a retrieval folder writes no answers
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("card.md.jinja").render(
        name=name,
        config=config,
        retrieval=retrieval,
        parity=parity,
        results=results,
        table=_table(rows),
        columns=_columns(rows),
        languages=sorted({row["lang"] for row in rows}),
        command=command,
        versions={package: version(package) for package in PACKAGES},
    )
    write_text(folder / "README.md", text)


def _results(checkpoint: Path) -> dict[str, Any] | None:
    for path in (checkpoint / RESULTS, checkpoint.resolve().parent / RESULTS):
        if path.is_file():
            content = read_json(path)
            rows = content.get("metrics") if isinstance(content, dict) else None
            if not isinstance(rows, list) or not all(
                isinstance(r, dict) and r.keys() >= _FIELDS for r in rows
            ):
                raise DataError(f"{path}: not a results.json; expected an object with a list 'metrics'")
            return dict(content)
    return None


def _rows_of(rows: Sequence[Mapping[str, Any]], checkpoint: str) -> list[Mapping[str, Any]]:
    """Return the rows of the model that the checkpoint's folder is named after, else those of ``chat``."""
    model = checkpoint if any(row["model"] == checkpoint for row in rows) else "chat"
    return [row for row in rows if row["model"] == model]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (split, language) in the order measured."""
    return list(dict.fromkeys((row["split"], row["lang"]) for row in rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return cells by task and metric: value, 95 % interval and number of examples for each column."""
    columns = _columns(rows)
    cells: dict[str, list[str]] = {}
    for row in rows:
        line = cells.setdefault(f"{row['task']} {row['name']}", ["" for _ in columns])
        cell = f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}, n = {row['n']})"
        line[columns.index((row["split"], row["lang"]))] = cell
    return cells
